/** A view as the fragment of a link: the fragment stays in the browser and in no server's log. */

/** Return the fragment of a view. */
export function encode(view) {
  const bytes = new TextEncoder().encode(JSON.stringify(view));
  const binary = Array.from(bytes, (byte) => String.fromCharCode(byte)).join("");
  return btoa(binary).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
}

/** Return the view of a fragment, null where it holds none. */
export function decode(fragment) {
  try {
    const binary = atob(fragment.replace(/^#/, "").replaceAll("-", "+").replaceAll("_", "/"));
    const view = JSON.parse(new TextDecoder().decode(Uint8Array.from(binary, (character) => character.charCodeAt(0))));
    return view?.request && typeof view.request === "object" ? view : null;
  } catch {
    return null;
  }
}

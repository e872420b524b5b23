/** Build and move among elements. All text goes through `textContent`: nothing that a model says becomes markup. */

/** Return a new element with these properties and children; strings become text. */
export function element(tag, { dataset = {}, ...properties } = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  Object.assign(made.dataset, dataset);
  made.append(...children);
  return made;
}

/** Return the element with this id. */
export const byId = (id) => document.getElementById(id);

/** Return a button that removes the list item it is in. */
export const remover = (what) => element("button", { type: "button", className: "remove", ariaLabel: `Remove ${what}`, title: `Remove ${what}`,
  onclick: ({ target }) => target.closest("li").remove() }, "×");

/** Make one item of a container reachable by Tab, the one that had the focus last. */
export function rove(container, items) {
  if (items.length) items[0].tabIndex = 0;
  container.addEventListener("focusin", ({ target }) => {
    const item = target.closest("[tabindex]");
    if (!item || item === container) return;
    for (const other of container.querySelectorAll('[tabindex="0"]')) other.tabIndex = -1;
    item.tabIndex = 0;
  });
}

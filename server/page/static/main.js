/** The page: a request goes out, its reply is drawn, and the address says how to see it again. */

import { ApiError, ask, events, hasKey, setKey } from "./api.js";
import { drawChoices } from "./choices.js";
import { curl, python } from "./code.js";
import { byId, element } from "./dom.js";
import { RequestForm } from "./form.js";
import { GrowingAnswers, drawGeneration } from "./generation.js";
import { Histogram } from "./histogram.js";
import { Inspector } from "./inspector.js";
import { decode, encode } from "./link.js";
import { watchRecent } from "./recent.js";
import { QUANTITIES, Scale } from "./scale.js";
import { drawSummary } from "./summary.js";
import { TokenView, specials } from "./tokens.js";

const EXAMPLES = [
  ["A question with choices", { prompt: "Question: What is a cup made of?\nAnswer:", continuations: [" clay", " wax", " glass"], label: 0 }],
  ["A text", { prompt: "Emma is feeding the animals in the barn in Greyport. Emma is careful and has plenty of time. Then she fills the trough with corn and brushes the brown horse and is proud of the result." }],
  ["Two answers", { prompt: "Passage:", generate_from: "both", max_tokens: 48, temperature: 0.8, seed: 1 }],
];

const ONE_COLUMN = matchMedia("(max-width: 720px)");

let shown = null; // request and reply of what is drawn
let views = [];
let running = null;
let retry = null;

const form = new RequestForm();
const inspector = new Inspector(byId("inspector"), { onContinue: goOn, onPin: saveView });
const histogram = new Histogram(byId("histogram"), byId("axis"), () => {
  paint();
  saveView();
});
const updateRecent = watchRecent(byId("recent"), () => byId("variant").value);
const quantity = () => document.querySelector("#quantity input:checked").value;

async function start() {
  const { data: [base, ...variants] } = await ask("v1/models");
  const tokenizer = await ask("tokenizer_info");
  for (const name of ["bos_token", "eos_token", "pad_token", "unk_token"]) if (tokenizer[name]) specials.add(tokenizer[name]);
  const names = variants.map(({ id }) => id);
  byId("base-model").textContent = `${base.root} ${base.dtype}`;
  byId("variant").replaceChildren(...variants.map(({ id, root, quantization, size }) =>
    element("option", { value: id }, `${id === "quantized" ? root : id} ${[quantization, size?.quantized_bits && `${size.quantized_bits} bits`].filter(Boolean).join(" ")}`)));
  form.answer.setModels(names);
  if (!tokenizer.chat_template) form.refuseChat();
  updateRecent();
  await open(decode(location.hash));
}

/** Open the view of a link. */
async function open(view) {
  if (!view) return;
  let request;
  try {
    form.write(view.request);
    request = form.read();
  } catch {
    throw new ApiError("The link does not hold a request of this page.");
  }
  await run(request, view);
}

async function run(request, { quantity: name, variant, bars = [], token } = {}) {
  running?.abort();
  const mine = (running = new AbortController());
  form.clearErrors();
  busy("Scoring …");
  try {
    const reply = request.max_tokens ? await generate(request, mine.signal) : await ask("compare", { body: request, signal: mine.signal });
    shown = { request, reply };
    if (Object.hasOwn(QUANTITIES, name ?? "")) byId(`quantity-${name}`).checked = true;
    if (variant === reply.models.quantized.id || Object.hasOwn(reply.variants, variant ?? "")) byId("variant").value = variant;
    draw(Array.isArray(bars) ? bars : []);
    pin(token);
    if (ONE_COLUMN.matches) byId("result").scrollIntoView();
    saveView();
    byId("status").textContent = told(reply);
  } catch (error) {
    if (!mine.signal.aborted) report(error, () => run(request, { quantity: name, variant, bars, token }));
    else if (mine === running) byId("status").textContent = "Stopped.";
  } finally {
    if (mine === running) busy(null);
    updateRecent();
  }
}

function told({ usage, timing }) {
  const generated = usage.generated_tokens ? ` and ${usage.generated_tokens} generated` : "";
  return `${usage.scored_tokens} tokens scored${generated} in ${Math.round(timing.total_ms)} ms`;
}

/** Draw the answers as they come, and return the whole reply. */
async function generate(request, signal) {
  let reply = null;
  let growing = null;
  for await (const event of events("compare", { body: { ...request, stream: true }, signal })) {
    signal.throwIfAborted();
    if (event.object !== "comparison.token") {
      reply = event;
      continue;
    }
    growing ??= beginAnswers();
    growing.add(event);
    byId("status").textContent = `${growing.tokens} tokens …`;
  }
  if (!reply) throw new ApiError("The server ended the answer too early.");
  return reply;
}

function beginAnswers() {
  clear();
  return new GrowingAnswers(byId("variant").value, (label) => new TokenView(label, [], inspector));
}

function clear() {
  byId("start").hidden = true;
  byId("result").hidden = false;
  for (const part of ["summary", "scale", "choice-result", "generation", "prompt-result", "code"]) byId(part).hidden = true;
  inspector.clear();
}

function draw(bars = []) {
  const { request, reply } = shown;
  const variant = byId("variant").value;
  const scores = reply.models.quantized.id === variant ? reply : reply.variants[variant];
  const context = scores.prompt.token_ids;
  clear();
  views = [];
  const viewOf = (label, columns, before = context) => {
    const view = new TokenView(label, before, inspector);
    view.append(columns);
    views.push(view);
    return view;
  };
  byId("prompt-tokens").replaceChildren(viewOf("prompt", scores.prompt, []).container);
  drawChoices(scores, (continuation) => viewOf(`choice ${continuation.index + 1}`, continuation.scores));
  drawGeneration(scores.generation, variant, viewOf);
  drawSummary(byId("summary"), scores);
  for (const part of ["summary", "scale", "prompt-result", "code"]) byId(part).hidden = false;
  const url = new URL(".", location.href.split("#")[0]).href;
  byId("curl").textContent = curl(url, request, hasKey());
  byId("python").textContent = python(url, request);
  recolour(bars);
}

/** Colour all tokens by the chosen quantity, on one scale. */
function recolour(bars = []) {
  const values = views.flatMap((view) => view.values(QUANTITIES[quantity()]));
  histogram.scale = new Scale(quantity(), values);
  histogram.draw(histogram.scale, values, bars);
  paint();
}

function paint() {
  for (const view of views) view.paint(histogram.scale, histogram.selected);
  const selected = document.querySelectorAll(".token.selected").length;
  byId("selection").textContent = histogram.selected.size ? `${selected} ${selected === 1 ? "token" : "tokens"} selected` : `Colour: ${QUANTITIES[quantity()].about}. Dotted: the models' likeliest tokens differ.`;
}

function pin(token) {
  const [view, index] = Array.isArray(token) ? token : [];
  if (views[view]?.spans[index]) inspector.pin(views[view], index);
}

/** Generate from the tokens before one, and an alternative to it. */
async function goOn(before, id) {
  const ids = [...before, id];
  form.continueFrom(ids);
  const special = views[0].spans[0]?.classList.contains("special");
  try {
    const text = await ask("detokenize", { body: { tokens: special && ids.length > 1 ? ids.slice(1) : ids } });
    byId("prompt").value = text.prompt;
    await run(form.read(), { quantity: quantity(), variant: byId("variant").value });
  } catch (error) {
    report(error, () => goOn(before, id));
  }
}

function saveView() {
  if (!shown) return;
  const pinned = inspector.pinned && [views.indexOf(inspector.pinned.view), inspector.pinned.index];
  const view = { request: shown.request, quantity: quantity(), variant: byId("variant").value, bars: [...histogram.selected], token: pinned };
  history.replaceState(null, "", `#${encode(view)}`);
}

function busy(text) {
  byId("stop").hidden = text === null;
  document.body.ariaBusy = String(text !== null);
  if (text !== null) byId("status").textContent = text;
}

function report(error, again) {
  byId("status").textContent = "";
  if (error.status === 401) return askForKey(again);
  byId("error").textContent = error.message;
  byId("error").hidden = false;
  form.markError(error.param);
}

function askForKey(again) {
  retry = again;
  byId("key-error").hidden = !hasKey();
  byId("key-error").textContent = "The server does not accept this key.";
  byId("key").value = "";
  byId("key-dialog").showModal();
}

async function begin() {
  try {
    await start();
  } catch (error) {
    report(error, begin);
  }
}

byId("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  setKey(byId("key").value.trim());
  byId("key-dialog").close();
  retry();
});
byId("request").addEventListener("submit", (event) => {
  event.preventDefault();
  try {
    run(form.read(), { quantity: quantity(), variant: byId("variant").value });
  } catch (error) {
    report(error);
  }
});
byId("stop").addEventListener("click", () => running.abort());
byId("variant").addEventListener("change", () => {
  updateRecent();
  if (!shown) return;
  draw();
  saveView();
});
byId("quantity").append(...Object.entries(QUANTITIES).map(([name, { label, about }], index) =>
  element("label", { title: about }, element("input", { type: "radio", name: "quantity", id: `quantity-${name}`, value: name, checked: index === 0 }), element("span", {}, label))));
byId("quantity").addEventListener("change", () => {
  recolour();
  saveView();
});
for (const button of document.querySelectorAll("[data-copies]")) {
  button.addEventListener("click", async () => {
    const code = byId(button.dataset.copies);
    getSelection().selectAllChildren(code);
    await navigator.clipboard?.writeText(code.textContent); // absent on plain http: the text is selected then
    button.textContent = navigator.clipboard ? "Copied" : "Selected";
  });
}
byId("examples").append(...EXAMPLES.map(([name, request]) => element("li", {}, element("button", { type: "button",
  onclick: () => {
    form.write(request);
    byId("request").requestSubmit();
  } }, name))));
addEventListener("hashchange", () => open(decode(location.hash)).catch(report));
begin();

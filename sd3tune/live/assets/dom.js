// Elements from code. Text of others only ever becomes text: nothing here parses HTML.

/**
 * An element. attributes: `class`, `onclick` and the like; null and false leave one out. `style` is
 * an object: the page's policy refuses styles as text.
 */
export function el(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "style") for (const [key, each] of Object.entries(value)) element.style.setProperty(key, each);
    else if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

export const byId = (id) => document.getElementById(id);

/** What an empty part of the page says: what is not there yet, and when it comes. */
export function empty(text) {
  return el("p", { class: "empty" }, text);
}

const drawn = new WeakMap(); // element -> what was last put into it

/** Replaces the children only where they changed, so that focus and scrolling stay. */
export function show(parent, ...children) {
  const fresh = el("div", {}, ...children);
  const text = fresh.innerHTML;
  if (drawn.get(parent) === text) return;
  drawn.set(parent, text);
  parent.replaceChildren(...fresh.childNodes);
}

/** Opens a dialog with a title, content and buttons; Escape closes it. */
export function ask(dialog, title, content, ...buttons) {
  const close = el("button", { type: "button", onclick: () => dialog.close() }, "Close");
  dialog.replaceChildren(
    el("h2", { id: `${dialog.id}-title` }, title),
    ...content,
    el("div", { class: "buttons" }, ...buttons, close),
  );
  dialog.showModal();
}

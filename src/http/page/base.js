// What every page's script uses.

/** The element with this id. */
const at = (id) => document.getElementById(id);

/** A new element with properties and children; strings become text, so nothing a server says is read as markup. */
const make = (tag, properties = {}, ...children) => {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children.filter((child) => child !== null));
  return element;
};

/** Milliseconds or seconds, in as many digits as matter. */
const time = (milliseconds) => {
  if (milliseconds >= 1000) return `${(milliseconds / 1000).toFixed(milliseconds < 10000 ? 2 : 1)} s`;
  return `${milliseconds.toFixed(milliseconds < 1 ? 2 : milliseconds < 100 ? 1 : 0)} ms`;
};

/** Text whose `code` is set as code. */
const prose = (text) => text.split("`").map((part, index) => index % 2 ? make("code", {}, part) : part);

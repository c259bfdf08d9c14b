// What every page's script uses.

/** The element with this id. */
const at = (id) => document.getElementById(id);

/** A new element with properties and children; strings become text, so nothing a server says is read as markup. */
const make = (tag, properties = {}, ...children) => {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children.filter((child) => child !== null));
  return element;
};

/** What is sent beside the key that was entered, if one was. It stays in this tab, until that is closed. */
const KEY = "convoy-key";
const keyed = (headers = {}) => {
  const key = sessionStorage.getItem(KEY);
  return key ? { ...headers, authorization: `Bearer ${key}` } : headers;
};

/** Shows where a key can be entered once an answer says that one is wanted. */
const askForKey = (response) => {
  if (response?.status === 401) at("key-wanted").hidden = false;
};
at("key").oninput = (event) => sessionStorage.setItem(KEY, event.target.value.replace(/[^!-~]/g, ""));
at("key").value = sessionStorage.getItem(KEY) ?? "";
at("key-wanted").hidden = !at("key").value;

/** Milliseconds or seconds, in as many digits as matter. */
const time = (milliseconds) => {
  if (milliseconds >= 1000) return `${(milliseconds / 1000).toFixed(milliseconds < 10000 ? 2 : 1)} s`;
  return `${milliseconds.toFixed(milliseconds < 1 ? 2 : milliseconds < 100 ? 1 : 0)} ms`;
};

/** Text whose `code` is set as code. */
const prose = (text) => text.split("`").map((part, index) => index % 2 ? make("code", {}, part) : part);

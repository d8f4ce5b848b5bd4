// Not named book.js: mdBook has a script of that name.
"use strict";

// Lets the long names of tests and files in tables break after _ and /, so that the tables fit the page.
for (const code of document.querySelectorAll("td code")) code.innerHTML = code.innerHTML.replace(/[_/]+/g, "$&<wbr>");

// mdBook turns every link to x.md into one to x.html; outside of the book, there is only x.md.
for (const link of document.querySelectorAll('main a[href^="../"]'))
  link.setAttribute("href", link.getAttribute("href").replace(/\.html(#.*)?$/, ".md"));

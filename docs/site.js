// Not named book.js: mdBook has a script of that name.
//
// Lets the long names of tests and files in tables break after _ and /, so that the tables fit the page.
"use strict";
for (const code of document.querySelectorAll("td code")) code.innerHTML = code.innerHTML.replace(/[_/]+/g, "$&<wbr>");

"use strict";
// Before the first paint, so that nobody sees the other colours first.
document.documentElement.dataset.theme = localStorage.getItem("mainstay.theme") ?? "auto";

"use strict";

const target = document.getElementById("redoc");
Redoc.init(target.dataset.openapi, { expandResponses: "200,201", nativeScrollbars: true }, target);

"use strict";

const target = document.getElementById("swagger-ui");
SwaggerUIBundle({
  url: target.dataset.openapi,
  domNode: target,
  presets: [SwaggerUIBundle.presets.apis],
  layout: "BaseLayout",
  deepLinking: true,
  displayRequestDuration: true,
  validatorUrl: null, // it would send the document to a public host
});

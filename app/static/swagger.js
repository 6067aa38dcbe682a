"use strict";

const target = document.getElementById("swagger-ui");
SwaggerUIBundle({
  url: target.dataset.openapi,
  domNode: target,
  presets: [SwaggerUIBundle.presets.apis],
  // A link inside of the button that opens a call would be out of reach for a keyboard: the button sets the address.
  plugins: [() => ({ components: { DeepLink: ({ text }) => text } })],
  layout: "BaseLayout",
  deepLinking: true,
  displayRequestDuration: true,
  validatorUrl: null, // it would send the document to a public host
});

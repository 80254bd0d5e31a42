"use strict";
(() => {
  const root = document.documentElement;
  const button = document.getElementById("theme");
  const system = matchMedia("(prefers-color-scheme: dark)");
  const dark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);
  const tell = () => {
    button.textContent = dark() ? "Light" : "Dark";
    button.setAttribute("aria-label", `Switch to ${dark() ? "light" : "dark"} colours`);
  };
  button.hidden = false;
  button.addEventListener("click", () => {
    root.dataset.theme = dark() ? "light" : "dark";
    tell();
  });
  system.addEventListener("change", tell);
  tell();

  for (const form of document.querySelectorAll("form.choose")) {
    const section = form.closest("section");
    const score = form.querySelector("[data-score]");
    const output = form.querySelector("output");
    const chosen = (name) => {
      const boxes = [...form.querySelectorAll(`[data-${name}]`)];
      return new Set(boxes.filter((one) => one.checked).map((one) => one.dataset[name]));
    };
    const update = () => {
      const who = chosen("who");
      const classes = chosen("class");
      const least = Number(score.value);
      output.textContent = least.toFixed(2);
      section.classList.toggle("no-labels", !who.has("labels"));
      section.classList.toggle("no-text", !who.has("text"));
      for (const box of section.querySelectorAll("g.box")) {
        const sure = !box.dataset.s || Number(box.dataset.s) >= least - 1e-9;
        box.classList.toggle("off", !(sure && classes.has(box.dataset.c)));
      }
      for (const panel of section.querySelectorAll(".panel-of")) {
        panel.classList.toggle("off", !who.has(panel.dataset.who));
        const count = (state, group) => panel.querySelectorAll(`${group} .${state}:not(.off)`).length;
        const objects = count("label", ".of-labels");
        panel.querySelector(".count").textContent =
          `${count("hit", ".of-model")} of ${objects} found, ${count("wrong", ".of-model")} wrong`;
      }
    };
    form.addEventListener("input", update);
    form.addEventListener("submit", (event) => event.preventDefault());
    update();
  }
})();

// Links between the pages. Which of them a server has, it says itself.

export function showPages(about) {
  for (const link of document.querySelectorAll("nav [data-page]")) link.hidden = !about[link.dataset.page];
}

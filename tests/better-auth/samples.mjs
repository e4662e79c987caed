// Writes every sample of the README and the manual into a folder:  node samples.mjs REPOSITORY FOLDER
// A sample is a fenced block of js, ts or tsx whose first line is a comment with its path.

import { mkdirSync, readFileSync, readdirSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";

const [repository, folder] = process.argv.slice(2);
const manual = readdirSync(join(repository, "src/manual")).filter((name) => name.endsWith(".md"));
const pages = ["README.md", ...manual.map((name) => join("src/manual", name))];
const written = new Set();
for (const page of pages) {
  const text = readFileSync(join(repository, page), "utf8");
  for (const [, language, sample] of text.matchAll(/^```(jsx?|tsx?|javascript|typescript)\n(.*?)^```$/gms)) {
    const path = /^\/\/ (\S+)\n/.exec(sample)?.[1];
    if (!path || written.has(path)) throw new Error(`${page}: a sample of ${language} without a path of its own:\n${sample}`);
    written.add(path);
    mkdirSync(dirname(join(folder, path)), { recursive: true });
    writeFileSync(join(folder, path), sample);
  }
  if (/^ {4}import .* from /m.test(text)) throw new Error(`${page}: a sample that is not fenced`);
}
if (written.size < 8) throw new Error(`only ${written.size} samples were found`);
console.log(`ok   ${written.size} samples: ${[...written].join(" ")}`);

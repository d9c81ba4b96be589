// Syntax trees of the sources, by the compiler's own programming interface: a process of the compiler that is asked.
import { readFileSync } from "node:fs";
import { join } from "node:path";
import type { SourceFile } from "typescript/unstable/ast";
import { API } from "typescript/unstable/sync";

/** Calls `visit` with the tree of each file of the repository; the trees are not to be kept. */
export function withTrees<T>(root: string, files: readonly string[], visit: (file: string, tree: SourceFile) => T): readonly T[] {
  const api = new API({ cwd: root });
  try {
    const snapshot = api.updateSnapshot({ openProjects: [join(root, "tsconfig.json")] });
    const program = snapshot.getProjects()[0]?.program;
    return files.map((file) => {
      const tree = program?.getSourceFile(join(root, file));
      if (tree === undefined) throw new Error(`${file} is not part of the project`);
      return visit(file, tree);
    });
  } finally {
    api.close();
  }
}

/** The tree of a text. */
export function treeOf<T>(text: string, visit: (tree: SourceFile) => T): T {
  const name = "/small/source.ts";
  const config = JSON.stringify({ compilerOptions: { noLib: true, noResolve: true, types: [] }, files: [name] });
  const virtual = new Map([
    [name, text],
    ["/small/tsconfig.json", config],
  ]);
  const api = new API({
    cwd: "/small",
    fs: {
      readFile: (path) => virtual.get(path) ?? null,
      fileExists: (path) => virtual.has(path),
      directoryExists: (path) => path === "/small" || path === "/",
      getAccessibleEntries: () => ({ files: ["source.ts", "tsconfig.json"], directories: [] }),
    },
  });
  try {
    const program = api.updateSnapshot({ openProjects: ["/small/tsconfig.json"] }).getProjects()[0]?.program;
    const tree = program?.getSourceFile(name);
    if (tree === undefined) throw new Error("the compiler has no tree for the text");
    return visit(tree);
  } finally {
    api.close();
  }
}

export function sourceOf(root: string, file: string): string {
  return readFileSync(join(root, file), "utf8");
}

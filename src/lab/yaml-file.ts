// Reading YAML files that people write: a value checked against a JSON schema, or one line that names the file, the line and what is accepted
// there.
import { Ajv2020, type ErrorObject } from "ajv/dist/2020.js";
import { type Document, isMap, isNode, LineCounter, parseDocument } from "yaml";
import { UsageError } from "../hardware/index.ts";

/** Nesting and aliases beyond any such file: a document that exceeds it is refused, not expanded. */
const MAX_ALIASES = 100;

export type Path = readonly (string | number)[];

export interface FileSchema {
  readonly properties: object;
}

/** A parsed file: knows where each value stands. */
export class YamlFile {
  private readonly name: string;
  private readonly document: Document.Parsed;
  private readonly lines: LineCounter;
  private readonly schema: FileSchema;

  /** `name`: for messages. UsageError when it is no YAML. */
  constructor(name: string, text: string, schema: FileSchema) {
    this.name = name;
    this.schema = schema;
    this.lines = new LineCounter();
    this.document = parseDocument(text, { lineCounter: this.lines, prettyErrors: false });
    const [problem] = this.document.errors;
    if (problem !== undefined)
      throw new UsageError(`${name}:${this.lines.linePos(problem.pos[0]).line}: ${problem.message.split("\n")[0]}`);
  }

  /** The value, as its schema describes it. UsageError: `FILE:LINE: where: what is accepted`. */
  value<T>(): T {
    let value: unknown;
    try {
      value = this.document.toJS({ maxAliasCount: MAX_ALIASES });
    } catch (error) {
      this.refuse([], error instanceof Error ? error.message : String(error));
    }
    const validate = new Ajv2020({ allErrors: false, verbose: true }).compile<T>(this.schema);
    if (validate(value)) return value;
    const error = validate.errors?.[0];
    if (error !== undefined) this.refuseSchemaError(error);
    throw new UsageError(`${this.name}: not as its schema says`);
  }

  /** Throws the one line. `atKey`: the line of that key, where the path leads to a mapping. */
  refuse(path: Path, message: string, atKey?: string): never {
    const place = path.length === 0 ? "" : `${pathText(path)}: `;
    throw new UsageError(`${this.name}:${this.lineOf(path, atKey)}: ${place}${message}`);
  }

  private lineOf(path: Path, atKey: string | undefined): number {
    const node = path.length === 0 ? this.document.contents : this.document.getIn(path, true);
    if (atKey !== undefined && isMap(node)) {
      const pair = node.items.find(({ key }) => isNode(key) && String(key) === atKey);
      if (pair !== undefined && isNode(pair.key) && pair.key.range) return this.lines.linePos(pair.key.range[0]).line;
    }
    if (isNode(node) && node.range) return this.lines.linePos(node.range[0]).line;
    return path.length === 0 ? 1 : this.lineOf(path.slice(0, -1), undefined);
  }

  private refuseSchemaError(error: ErrorObject): never {
    const path = error.instancePath
      .split("/")
      .slice(1)
      .map((part) => (/^\d+$/.test(part) ? Number(part) : part.replace(/~1/g, "/").replace(/~0/g, "~")));
    if (error.keyword === "additionalProperties") {
      const key = (error.params as { additionalProperty: string }).additionalProperty; // of this keyword
      const known = Object.keys((error.parentSchema as { properties?: object } | undefined)?.properties ?? {}); // ajv: verbose
      this.refuse(path, `unknown key "${key}"; accepted: ${known.join(", ")}`, key);
    }
    if (error.keyword === "required") {
      this.refuse(path, `the key "${(error.params as { missingProperty: string }).missingProperty}" is missing`); // of this keyword
    }
    if (path.length === 0) this.refuse(path, `a mapping is accepted, with ${Object.keys(this.schema.properties).join(", ")}`);
    this.refuse(path, accepted(error));
  }
}

function pathText(path: Path): string {
  return path.map((part, i) => (typeof part === "number" ? `[${part}]` : i === 0 ? part : `.${part}`)).join("");
}

function accepted(error: ErrorObject): string {
  const schema = error.parentSchema as { readonly description?: string; readonly type?: string } | undefined; // ajv: verbose
  if (error.keyword === "enum") return `one of ${(error.params as { allowedValues: string[] }).allowedValues.join(", ")} is accepted`;
  return `${schema?.description ?? `a value of type ${schema?.type ?? "another kind"}`} is accepted`;
}

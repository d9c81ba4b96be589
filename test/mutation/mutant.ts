// What a single change of the kernel's source is, and every such change of one file: a statement removed, a condition negated, a statement
// swapped with the next, an error that becomes 0, an operand of a boolean or of a bit-or left out, an instruction left out of machine code.
// A change must alter what runs: types, imports, comments, declarations as such and what is only there to fail are no targets.
import { type Expression, type Node, type SourceFile, type Statement, SyntaxKind } from "typescript/unstable/ast";
import {
  isArrowFunction,
  isBinaryExpression,
  isBlock,
  isBreakStatement,
  isCallExpression,
  isCaseClause,
  isConditionalExpression,
  isContinueStatement,
  isDefaultClause,
  isDoStatement,
  isExpressionStatement,
  isForStatement,
  isFunctionDeclaration,
  isFunctionExpression,
  isIdentifier,
  isIfStatement,
  isMethodDeclaration,
  isParenthesizedExpression,
  isPropertyAccessExpression,
  isPropertyAssignment,
  isReturnStatement,
  isThrowStatement,
  isVariableDeclaration,
  isVariableStatement,
  isWhileStatement,
} from "typescript/unstable/ast/is";

export const MUTATIONS = ["remove", "negate", "swap", "error becomes 0", "drop operand", "drop instruction"] as const;
export type Mutation = (typeof MUTATIONS)[number];

export interface Mutant {
  /** Stable across edits elsewhere: file, function, mutation, text of the statement, and a number where these are not unique. */
  readonly key: string;
  /** From the root of the repository, with slashes. */
  readonly file: string;
  /** The function that it is in, with the variables and properties around it; "(module)" outside any. */
  readonly where: string;
  readonly mutation: Mutation;
  /** What is changed, on one line. */
  readonly text: string;
  /** Counted from 1. */
  readonly line: number;
  /** Offset in the source of what must be executed for the change to matter. */
  readonly at: number;
  /** The source is cut from `start` to `end`, and `replacement` put there. */
  readonly start: number;
  readonly end: number;
  readonly replacement: string;
}

/** Functions whose calls only state what is always so. */
const ASSERTIONS = new Set(["assert", "fail", "assertNever"]);
const LONGEST_TEXT = 140;

export function applyMutant(source: string, mutant: Mutant): string {
  return source.slice(0, mutant.start) + mutant.replacement + source.slice(mutant.end);
}

/** Every mutant of a file, in the order of the source. */
export function mutantsOf(file: string, tree: SourceFile): readonly Mutant[] {
  const found: Mutant[] = [];
  const keys = new Map<string, number>();
  const add: Add = (mutation, node, start, end, replacement, shown = node.getStart(tree)) => {
    const text = oneLine(tree.text.slice(shown, node.end));
    const where = nameAround(node, tree);
    const key = `${file}#${where}#${mutation}#${text}`;
    const count = (keys.get(key) ?? 0) + 1;
    keys.set(key, count);
    found.push({
      key: count === 1 ? key : `${key}#${count}`,
      file,
      where,
      mutation,
      text,
      line: tree.getLineAndCharacterOfPosition(shown).line + 1,
      at: executedFrom(node, tree),
      start,
      end,
      replacement,
    });
  };
  const visit = (node: Node): void => {
    if (isAssertion(node)) return;
    if (isTarget(node)) removeStatement(node, tree, add);
    for (const condition of conditionsOf(node)) {
      add("negate", condition, condition.getStart(tree), condition.end, `!(${condition.getText(tree)})`);
    }
    if (isReturnStatement(node) && node.expression !== undefined) {
      for (const error of errorsIn(node.expression)) add("error becomes 0", node, error.getStart(tree), error.end, "0");
    }
    dropOperands(node, tree, add);
    dropInstruction(node, tree, add);
    if (isArrowFunction(node) && !isBlock(node.body) && !isAssertion(node.body)) {
      add("remove", node.body, node.body.getStart(tree), node.body.end, "undefined");
    }
    const statements = statementsOf(node);
    if (statements !== undefined) swapNeighbours(statements, tree, add);
    node.forEachChild(visit);
  };
  tree.forEachChild(visit);
  return found.sort((a, b) => a.start - b.start || a.end - b.end || MUTATIONS.indexOf(a.mutation) - MUTATIONS.indexOf(b.mutation));
}

/** `shown`: where in the source that begins which the report shows; it ends with the node. */
type Add = (mutation: Mutation, node: Node, start: number, end: number, replacement: string, shown?: number) => void;

function oneLine(text: string): string {
  const line = text
    .replace(/^\s*\/\/.*$/gm, "")
    .replace(/\s+/g, " ")
    .trim();
  return line.length <= LONGEST_TEXT ? line : `${line.slice(0, LONGEST_TEXT - 3)}...`;
}

function unparenthesized(node: Node): Node {
  return isParenthesizedExpression(node) ? unparenthesized(node.expression) : node;
}

function isAssertionCall(node: Node): boolean {
  return isCallExpression(node) && isIdentifier(node.expression) && ASSERTIONS.has(node.expression.text);
}

/** `assert(...)`, `fail(...)`, and `if (...) fail(...)`. */
function isAssertion(node: Node): boolean {
  if (isAssertionCall(node)) return true;
  if (isThrowStatement(node)) return true;
  if (isExpressionStatement(node)) return isAssertionCall(node.expression);
  if (isIfStatement(node) && node.elseStatement === undefined) return isAssertion(soleStatement(node.thenStatement));
  return false;
}

function soleStatement(node: Statement): Statement {
  const only = isBlock(node) && node.statements.length === 1 ? node.statements[0] : undefined;
  return only ?? node;
}

function statementsOf(node: Node): readonly Statement[] | undefined {
  if (isBlock(node) || isCaseClause(node) || isDefaultClause(node)) return node.statements;
  return undefined;
}

/** A statement inside a function, that does something. */
function isTarget(node: Node): node is Statement {
  switch (node.kind) {
    case SyntaxKind.ExpressionStatement:
    case SyntaxKind.IfStatement:
    case SyntaxKind.ForStatement:
    case SyntaxKind.ForOfStatement:
    case SyntaxKind.ForInStatement:
    case SyntaxKind.WhileStatement:
    case SyntaxKind.DoStatement:
    case SyntaxKind.SwitchStatement:
    case SyntaxKind.ReturnStatement:
    case SyntaxKind.BreakStatement:
    case SyntaxKind.ContinueStatement:
      return true;
    default:
      return false;
  }
}

function removeStatement(node: Statement, tree: SourceFile, add: Add): void {
  const { parent } = node;
  // The whole `if` goes already.
  const holder = isBlock(parent) && parent.statements.length === 1 ? parent.parent : parent;
  if (isIfStatement(holder) && holder.elseStatement === undefined) return;
  // A bare return at the end of a function returns anyway.
  if (isReturnStatement(node) && node.expression === undefined && isLastOf(node, parent)) return;
  add("remove", node, node.getStart(tree), node.end, statementsOf(parent) === undefined ? "{}" : "");
}

function isLastOf(node: Statement, parent: Node): boolean {
  return isBlock(parent) && parent.statements.at(-1) === node && !isStatementHolder(parent.parent);
}

function isStatementHolder(node: Node): boolean {
  return !(isFunctionDeclaration(node) || isMethodDeclaration(node) || isArrowFunction(node) || isFunctionExpression(node));
}

function conditionsOf(node: Node): readonly Expression[] {
  if (isIfStatement(node) || isWhileStatement(node) || isDoStatement(node)) return isEndless(node.expression) ? [] : [node.expression];
  if (isForStatement(node)) return node.condition === undefined ? [] : [node.condition];
  if (isConditionalExpression(node)) return [node.condition];
  return [];
}

function isEndless(node: Expression): boolean {
  return node.kind === SyntaxKind.TrueKeyword;
}

/** Names of errors in what is returned: constants as in errno.h, and variables that hold one. */
function errorsIn(node: Expression): readonly Expression[] {
  const plain = unparenthesized(node);
  if (isIdentifier(plain)) return /^E[A-Z0-9]{2,}$|^err$|^error$|Error$/.test(plain.text) ? [plain] : [];
  if (isConditionalExpression(plain)) return [...errorsIn(plain.whenTrue), ...errorsIn(plain.whenFalse)];
  return [];
}

function isDroppable(kind: SyntaxKind): boolean {
  return kind === SyntaxKind.AmpersandAmpersandToken || kind === SyntaxKind.BarBarToken || kind === SyntaxKind.BarToken;
}

/** Of `a | b | c`, which is `(a | b) | c`: at the inner node a and b, at the outer one c. */
function dropOperands(node: Node, tree: SourceFile, add: Add): void {
  if (!isBinaryExpression(node) || !isDroppable(node.operatorToken.kind)) return;
  const { left, right } = node;
  const isChain = isBinaryExpression(left) && left.operatorToken.kind === node.operatorToken.kind;
  // `(x | 0)` only makes a number an integer.
  if (right.getText(tree) !== "0") add("drop operand", right, left.end, right.end, "");
  if (!isChain) add("drop operand", left, left.getStart(tree), right.getStart(tree), "");
}

/** `a.mov(..).pop(..)`: each link is an instruction. A single one is a statement already. */
function dropInstruction(node: Node, tree: SourceFile, add: Add): void {
  if (!isCallExpression(node) || !isPropertyAccessExpression(node.expression)) return;
  const receiver = node.expression.expression;
  if (!isAssemblerChain(node) || (isIdentifier(receiver) && !isLink(node.parent))) return;
  add("drop instruction", node, receiver.end, node.end, "", (isIdentifier(receiver) ? receiver : node.expression.name).getStart(tree));
}

function isLink(node: Node): boolean {
  return isPropertyAccessExpression(node) && isCallExpression(node.parent) && node.parent.expression === node;
}

function isAssemblerChain(node: Node): boolean {
  if (isIdentifier(node)) return node.text === "a";
  return isCallExpression(node) && isPropertyAccessExpression(node.expression) && isAssemblerChain(node.expression.expression);
}

/** Two statements that may trade places: neither leaves the block, and neither declares what the other uses. */
function swapNeighbours(statements: readonly Statement[], tree: SourceFile, add: Add): void {
  for (let i = 0; i + 1 < statements.length; i++) {
    const [first, second] = [statements[i], statements[i + 1]];
    if (first === undefined || second === undefined || !maySwap(first, second, tree)) continue;
    const start = first.getStart(tree);
    const between = tree.text.slice(first.end, second.getStart(tree));
    add("swap", first, start, second.end, `${second.getText(tree)}${between}${first.getText(tree)}`);
  }
}

function maySwap(first: Statement, second: Statement, tree: SourceFile): boolean {
  if ([first, second].some((one) => leaves(one) || isAssertion(one) || isDead(one))) return false;
  const [declared, other] = [declaredIn(first), declaredIn(second)];
  if (declared.length > 0 && other.length > 0) return false; // reading this before that: nobody can tell
  const uses = (names: readonly string[], node: Statement): boolean =>
    names.some((name) => new RegExp(`\\b${name.replaceAll("$", "\\$")}\\b`).test(node.getText(tree)));
  if (uses(declared, second) || uses(other, first)) return false;
  if ((declared.length > 0 && !calls(first)) || (other.length > 0 && !calls(second))) return false;
  // What is read before or after a way out of the function is not used there.
  if ((declared.length > 0 && isWayOut(second)) || (other.length > 0 && isWayOut(first))) return false;
  return first.getText(tree) !== second.getText(tree);
}

function leaves(node: Statement): boolean {
  return isReturnStatement(node) || isBreakStatement(node) || isContinueStatement(node) || isThrowStatement(node);
}

function isWayOut(node: Statement): boolean {
  return isIfStatement(node) && node.elseStatement === undefined && leaves(soleStatement(node.thenStatement));
}

function isDead(node: Statement): boolean {
  return isFunctionDeclaration(node) || node.kind === SyntaxKind.EmptyStatement;
}

function calls(node: Node): boolean {
  if (isCallExpression(node)) return true;
  return node.forEachChild((child) => (calls(child) ? true : undefined)) ?? false;
}

function declaredIn(node: Statement): readonly string[] {
  if (!isVariableStatement(node)) return [];
  const names: string[] = [];
  const collect = (inner: Node): void => {
    if (isIdentifier(inner)) names.push(inner.text);
    else inner.forEachChild(collect);
  };
  for (const declaration of node.declarationList.declarations) collect(declaration.name);
  return names;
}

function nameAround(node: Node, tree: SourceFile): string {
  const names: string[] = [];
  for (let at: Node | undefined = node.parent; at !== undefined && at !== tree; at = at.parent) {
    if (isFunctionDeclaration(at) || isMethodDeclaration(at)) names.push(at.name?.getText(tree) ?? "");
    else if (isPropertyAssignment(at) && isFunction(at.initializer)) names.push(at.name.getText(tree));
    else if (isVariableDeclaration(at) && (isFunction(at.initializer) || isOfModule(at, tree))) names.push(at.name.getText(tree));
  }
  return names.length === 0 ? "(module)" : names.reverse().join(".");
}

function isFunction(node: Node | undefined): boolean {
  return node !== undefined && (isArrowFunction(node) || isFunctionExpression(node));
}

function isOfModule(node: Node, tree: SourceFile): boolean {
  return node.parent?.parent?.parent === tree;
}

/** The body of a concise function by itself; else the statement. */
function executedFrom(node: Node, tree: SourceFile): number {
  let at: Node = node;
  while (at.parent !== undefined && at.parent !== tree) {
    const { parent } = at;
    if (isBlock(parent) || isCaseClause(parent) || isDefaultClause(parent)) break;
    if (isArrowFunction(parent) && parent.body === at) break;
    if (isIfStatement(parent) && (parent.thenStatement === at || parent.elseStatement === at)) break;
    at = parent;
  }
  return at.getStart(tree);
}

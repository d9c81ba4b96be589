// The three ways to fail, told apart: expected errors are returned values (see errno in src/abi), a broken invariant throws
// InvariantError, bad input at a face throws UsageError. Nothing else is thrown anywhere in Cordon but the one suspension signal.

/** A state that the code proves impossible. Caught only by the faces; the message is written for a kernel developer. */
export class InvariantError extends Error {
  override readonly name = "InvariantError";
}

/** Bad input at a face: the message names the place (file:line or argument) and the accepted values. Exit status 2. */
export class UsageError extends Error {
  override readonly name = "UsageError";
}

/** Throws InvariantError unless `condition` holds. The message is built only on failure; on hot paths use `if (!x) fail(...)`. */
export function assert(condition: boolean, message: () => string): asserts condition {
  if (!condition) throw new InvariantError(message());
}

/** Throws InvariantError. */
export function fail(message: string): never {
  throw new InvariantError(message);
}

/** Closes a `switch` over a closed set. */
export function assertNever(value: never): never {
  throw new InvariantError(`impossible case: ${String(value)}`);
}

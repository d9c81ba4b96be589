// What two failures have in common that are the same fault.

/** A message without what differs from run to run: addresses and numbers. */
export function signatureOf(message: string): string {
  return message.replace(/-?0x[0-9a-f]+/g, "#").replace(/\d+/g, "#");
}

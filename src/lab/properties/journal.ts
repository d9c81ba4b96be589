// What the properties remember can go back with the machine: every change of it leaves here how it is undone.
export class Journal {
  private readonly undo: (() => void)[] = [];
  /** Nothing is kept before the first position was asked for. */
  private isKept = false;

  /** The present state, to go back to; positions are taken back in the reverse order, each any number of times. */
  position(): number {
    this.isKept = true;
    return this.undo.length;
  }

  changed(undo: () => void): void {
    if (this.isKept) this.undo.push(undo);
  }

  goBackTo(position: number): void {
    while (this.undo.length > position) this.undo.pop()?.();
  }
}

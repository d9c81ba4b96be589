// The assembler's face: see README.md.
export { type Assembler, assembler } from "./assembler.ts";
export { AssemblyError, encodeForm, type Resolve } from "./encode.ts";
export { type Form, formsOf, type Slot } from "./forms.ts";
export { CONDITIONS, type Condition, MNEMONICS, type Mnemonic, STRING_INSTRUCTIONS, type StringInstruction } from "./mnemonics.ts";
export * from "./operands.ts";
export { type Assembled, assemble, type Placement, type Program, type Section, type Stub, TRAP_OPCODE } from "./program.ts";

export { GUEST_IMAGE_START, type GuestImage, parseElf, type Segment } from "./elf.ts";
export { GUEST_MEMORY_MAX, GUEST_MEMORY_MIN } from "./guest-state.ts";
export { encodeVictimArguments, VICTIM_PUPPET, VICTIM_SECRET, victim } from "./victim.ts";
export { VMM_PUPPET, VMM_STATUS_ERROR, VMM_STATUS_TRIPLE_FAULT, type VmmEnding, vmmPuppet } from "./vmm.ts";
export { encodeVmmArguments, GUEST_COMMAND_LINE_MAX, type VmmConfig } from "./vmm-arguments.ts";

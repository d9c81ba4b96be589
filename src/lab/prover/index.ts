export { loadSearch } from "./checkpoint.ts";
export { type Configuration, kernelCommandLine } from "./configuration.ts";
export { CONFIGURATION_FLAGS, namedConfiguration, parseConfiguration, withFlags } from "./configuration-file.ts";
export { checkSchema } from "./configuration-schema.ts";
export { judgeSide, type Side } from "./difference.ts";
export { decodeInjection, decodeStart, type EventCode } from "./event-code.ts";
export { EventExplorer } from "./event-explorer.ts";
export { INJECTION_KINDS, type InjectionKind } from "./injection.ts";
export { CONFIGURATION_NAMES, CONFIGURATIONS } from "./named-configurations.ts";
export { CONTINUE, OPERATIONS, operationNames } from "./operations.ts";
export { explorerOf, type Outcome, type ProveOptions, prove, searchIdentity, type Verdict } from "./prove.ts";
export { type RealReplay, replayReal } from "./real-replay.ts";
export { minimise, type ReplayEnd, Replayer, type ReplayResult, replay } from "./replay.ts";
export { formatReplay, parseReplay, type Replay, replaySchema } from "./replay-file.ts";
export type { Found, SearchProgress, SearchResult, SearchState } from "./search.ts";
export { expectedOccurrences, missingOccurrences } from "./sometimes.ts";
export { type Happening, type Story, type StoryEvent, tellStory } from "./story.ts";
export { storyText } from "./story-text.ts";
export { type EventChoice, type EventEnd, System } from "./system.ts";
export {
  eventLines,
  judgeAll,
  OPTION_CONFIGURATIONS,
  OPTION_SUBJECTS,
  PRESET_CONFIGURATIONS,
  PRESET_SUBJECTS,
  tableText,
} from "./verdict-table.ts";

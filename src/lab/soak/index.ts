export {
  checkUserspace,
  type ExploredEvent,
  USER_EVENTS,
  type UserspaceCheck,
  type UserspaceFinding,
  type UserspaceReport,
} from "./check-userspace.ts";
export { type EpisodeFailure, type EpisodeOptions, type EpisodeResult, type Outcome, runEpisode } from "./episode.ts";
export { type FailingReport, type FailingScenario, failEveryAllocation } from "./fail-every.ts";
export { generate } from "./generator.ts";
export { type EpisodeConfig, formatScript, type Item, parseScript, type Script } from "./script.ts";
export { type ShrinkOptions, shrink } from "./shrink.ts";
export { episodeSeed, type SoakOptions, type SoakProgress, type SoakReport, soak } from "./soak.ts";

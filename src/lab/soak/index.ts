export { type EpisodeFailure, type EpisodeResult, runEpisode } from "./episode.ts";
export { generate } from "./generator.ts";
export { type EpisodeConfig, formatScript, type Item, parseScript, type Script } from "./script.ts";
export { type ShrinkOptions, shrink } from "./shrink.ts";
export { episodeSeed, type SoakOptions, type SoakProgress, type SoakReport, soak } from "./soak.ts";

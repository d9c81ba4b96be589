// The files that a scenario names, read and checked before anything runs.
import { dirname, resolve } from "node:path";
import { parseGuestImage, parseScenario, type Scenario, type ScenarioInputs } from "../lab/index.ts";
import { readBytes } from "./files.ts";
import { readRoot } from "./root-files.ts";

export interface LoadedScenario {
  readonly scenario: Scenario;
  readonly inputs: ScenarioInputs;
}

/** Reads a scenario file and what it names; UsageError says which file, which line, and what is accepted. */
export function loadScenario(file: string): LoadedScenario {
  const scenario = parseScenario(new TextDecoder().decode(readBytes(file)), file);
  const at = (path: string): string => resolve(dirname(file), path);
  const images = new Map(
    scenario.guests.map((guest) => [guest.name, parseGuestImage(readBytes(at(guest.image)), at(guest.image), guest.memoryBytes)]),
  );
  const programs = new Map<string, Uint8Array>();
  for (const { name, file: path } of scenario.programs) if (path !== undefined) programs.set(name, readBytes(at(path)));
  const root = scenario.root === undefined ? new Map<string, Uint8Array>() : readRoot(at(scenario.root));
  return { scenario, inputs: { images, programs, root } };
}

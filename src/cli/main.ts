// The command's entry: finds the subcommand, and turns what can go wrong into one line and an exit status.
import { InvariantError, UsageError } from "../hardware/index.ts";

interface Command {
  readonly summary: string;
  run(args: readonly string[]): Promise<number>;
}

/** Loaded when asked for: `cordon --help` needs neither the core nor the decoder. */
const COMMANDS: Readonly<Record<string, Command>> = {
  demo: {
    summary: "both attacks, with ASI off and on: what leaks, what stops it, at what cost",
    run: async (args) => (await import("./demo.ts")).demo(args),
  },
  run: {
    summary: "run a guest (static ELF64) under the simulated kernel, and say what it cost",
    run: async (args) => (await import("./run.ts")).run(args),
  },
  attack: { summary: "run one attack under one configuration", run: async (args) => (await import("./attack.ts")).attack(args) },
  map: {
    summary: "the restricted and unrestricted address spaces of a running scenario, side by side",
    run: async (args) => (await import("./map.ts")).map(args),
  },
  options: {
    summary: "what each option beyond the posted series saves, counted",
    run: async (args) => (await import("./options.ts")).options(args),
  },
  soak: {
    summary: "random processes, guests, interrupts and failures, judged throughout",
    run: async (args) => (await import("./soak.ts")).soak(args),
  },
  check: {
    summary: "every interleaving of a small system, or the shortest counterexample",
    run: async (args) => (await import("./check.ts")).check(args),
  },
  explain: { summary: "what the presets differ in, and what it means", run: async (args) => (await import("./explain.ts")).explain(args) },
  cpus: { summary: "the CPU models: bugs, features, geometry", run: async (args) => (await import("./cpus.ts")).cpus(args) },
};

const HELP = `cordon: an executable Address Space Isolation

  cordon COMMAND [ARGUMENTS]        cordon COMMAND --help

${Object.entries(COMMANDS)
  .map(([name, command]) => `  ${name.padEnd(8)} ${command.summary}`)
  .join("\n")}

Exit status: 0 done; 1 something failed; 2 bad input (one line says where and what is accepted);
a guest's own status for \`run\`.
`;

/** Runs `cordon ARGS`. @returns the exit status. */
export async function runCommand(args: readonly string[]): Promise<number> {
  const [name, ...rest] = args;
  if (name === undefined || name === "--help" || name === "-h" || name === "help") {
    process.stdout.write(HELP);
    return name === undefined ? 2 : 0;
  }
  try {
    const command = COMMANDS[name];
    if (command === undefined) throw new UsageError(`unknown command ${name}; one of ${Object.keys(COMMANDS).join(", ")} is accepted`);
    return await command.run(rest);
  } catch (error) {
    if (error instanceof UsageError) {
      process.stderr.write(`cordon: ${error.message}\n`);
      return 2;
    }
    if (error instanceof InvariantError) {
      process.stderr.write(`cordon: broken invariant: ${error.message}\n${error.stack ?? ""}\n`);
      return 1;
    }
    throw error;
  }
}

// A configuration with a counterexample that everybody knows, for tests of what becomes of counterexamples. Only tests import it.
import { fail, findCpuModel } from "../../hardware/index.ts";
import type { Configuration } from "./configuration.ts";
import { namedConfiguration } from "./configuration-file.ts";

/** As posted, the training of a process without a domain of its own is forgotten when another mm is loaded (spec 2.5). */
export const FORGOTTEN_TRAINING: Configuration = {
  ...namedConfiguration("small-kvm"),
  preset: "rfc-v2",
  model: findCpuModel("skx") ?? fail("no CPU model skx"),
  operations: ["KVM_RUN HLT", "sched_yield"],
  commandLine: "asi=on mitigations=off kvm-intel.vmentry_l1d_flush=never asi_userspace=off",
  properties: ["S1"],
};

/** Of what is found there. */
export const FORGOTTEN_TRAINING_SIGNATURE =
  "S1 branch target buffer mm # (sensitive) the restricted kernel runs with training that it refuses";

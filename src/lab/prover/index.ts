export { type Configuration, kernelCommandLine } from "./configuration.ts";
export { CONFIGURATION_FLAGS, namedConfiguration, parseConfiguration, withFlags } from "./configuration-file.ts";
export { checkSchema } from "./configuration-schema.ts";
export { INJECTION_KINDS, type InjectionKind } from "./injection.ts";
export { CONFIGURATION_NAMES, CONFIGURATIONS } from "./named-configurations.ts";
export { CONTINUE, OPERATIONS } from "./operations.ts";
export { type EventChoice, type EventEnd, System } from "./system.ts";

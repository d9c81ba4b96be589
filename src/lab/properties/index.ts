export { type CheckerOptions, Findings, type Occurrence } from "./findings.ts";
export { type Contents, type CpuTruth, type GroundTruth, ownerText, type Structure } from "./ground-truth.ts";
export { sampleable } from "./judge.ts";
export { type Domain, KernelView } from "./kernel-view.ts";
export { auditDomain } from "./mapping-audit.ts";
export { type Census, censusDifference, Objects } from "./objects.ts";
export { describeViolation, PROPERTIES, PROPERTY_NAMES, type PropertyName, PropertyViolation, type Violation } from "./property.ts";
export { PropertyChecker } from "./property-checker.ts";

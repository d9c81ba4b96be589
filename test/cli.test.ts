// The command at its face: what it prints where, its exit statuses, and one clear line for every bad input.
import { deepEqual, equal, match, ok } from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { copyFileSync, existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { after, test } from "node:test";
import { fileURLToPath } from "node:url";

const root = join(dirname(fileURLToPath(import.meta.url)), "..", "..");
const scratch = mkdtempSync(join(tmpdir(), "cordon-cli-"));
after(() => rmSync(scratch, { recursive: true }));

const guest = (name: string): string => join(root, "guests", "built", `${name}.elf`);

function cordon(...args: readonly string[]): { status: number | null; stdout: string; stderr: string } {
  return spawnSync(process.execPath, [join(root, "bin", "cordon"), ...args], { encoding: "utf8", cwd: scratch });
}

/** A copy of a guest with some bytes replaced. */
function damaged(name: string, edits: Readonly<Record<number, number>>): string {
  const path = join(scratch, name);
  const bytes = readFileSync(guest("hello"));
  for (const [offset, byte] of Object.entries(edits)) bytes[Number(offset)] = byte;
  writeFileSync(path, bytes);
  return path;
}

test("the guest's console is standard output and nothing else is; HLT with interrupts off is status 0", () => {
  const result = cordon("run", guest("hello"));
  equal(result.status, 0, result.stderr);
  equal(result.stdout, "hello from the guest (16 MiB)\n");
  match(result.stderr, /asi_enter: address space switched/);
  match(result.stderr, /end of KVM_RUN +kvm_arch_vcpu_ioctl_run/);
});

test("a byte written to port 0xf4 is the exit status", () => {
  equal(cordon("run", guest("exits"), "--append", "5").status, 0);
  const wrong = cordon("run", guest("attack-l1tf"), "--append", "length=1000");
  equal(wrong.status, 2);
  match(wrong.stdout, /length must be 1 to 64/);
});

test("--memory is what the guest is told", () => {
  equal(cordon("run", guest("hello"), "--memory", "32M").stdout, "hello from the guest (32 MiB)\n");
});

test("the ledger as JSON has the fields that its schema requires, and counts hypercalls exactly", () => {
  const file = join(scratch, "ledger.json");
  const result = cordon("run", guest("exits"), "--append", "100", "--ledger", file);
  equal(result.status, 0, result.stderr);
  const ledger = JSON.parse(readFileSync(file, "utf8")) as Record<string, unknown> & {
    ledger: { vmExits: { what: string; count: number }[] };
  };
  const schema = JSON.parse(readFileSync(join(root, "docs", "ledger.schema.json"), "utf8")) as { required: string[]; properties: object };
  deepEqual(Object.keys(ledger).sort(), [...schema.required].sort());
  deepEqual(Object.keys(schema.properties).sort(), [...schema.required].sort());
  equal(ledger.ledger.vmExits.find((row) => row.what === "VMCALL")?.count, 100);
  deepEqual(
    readdirSync(scratch).filter((name) => name.endsWith(".tmp")),
    [],
  );
});

test("the same run gives the same ledger to the byte", () => {
  const files = ["first.json", "second.json"].map((name) => join(scratch, name));
  for (const file of files) equal(cordon("run", guest("exits"), "--append", "50", "--gear", "detailed", "--ledger", file).status, 0);
  const [first, second] = files.map((file) => readFileSync(file, "utf8"));
  equal(first, second);
});

test("a guest that never ends is stopped by --limit, with what it had done", () => {
  const result = cordon("run", guest("attack-l1tf"), "--append", "length=1 rounds=100000", "--limit", "30000000");
  equal(result.status, 3);
  match(result.stderr, /stopped by --limit after 3\d,\d{3},\d{3} cycles/);
  match(result.stderr, /VM entries/);
});

/** A copy of a guest whose first instruction is replaced. */
function startingWith(name: string, code: readonly number[]): string {
  const bytes = readFileSync(guest("hello"));
  const entry = Number(bytes.readBigUInt64LE(24));
  const headers = Number(bytes.readBigUInt64LE(32));
  const segment = Array.from({ length: bytes.readUInt16LE(56) }, (_, i) => headers + 56 * i).find(
    (at) => Number(bytes.readBigUInt64LE(at + 24)) <= entry,
  );
  ok(segment !== undefined);
  const offset = Number(bytes.readBigUInt64LE(segment + 8)) + entry - Number(bytes.readBigUInt64LE(segment + 24));
  return damaged(name, Object.fromEntries(code.map((byte, index) => [offset + index, byte])));
}

test("a triple fault ends the run with status 3 and says so", () => {
  // UD2: without an IDT that is a triple fault.
  const result = cordon("run", startingWith("ud2.elf", [0x0f, 0x0b]));
  equal(result.status, 3, result.stderr);
  match(result.stderr, /the guest crashed: triple fault/);
  ok(!/not implemented/.test(result.stderr), "UD2 is undefined by design");
});

test("an instruction that the machine does not know raises #UD, and the summary names and counts it", () => {
  const result = cordon("run", startingWith("addps.elf", [0x0f, 0x58, 0xc1]));
  equal(result.status, 3, result.stderr);
  match(result.stderr, /not implemented \(each raised #UD\)[\s\S]*addps +1\n/i);
});

test("the benchmark kernels give the checksums that the same code gives on a real processor", () => {
  // Printed by guests/build/bench-native (make -C guests native) on an AMD EPYC (Zen 5).
  const native = {
    sort: "be535597aad08c44",
    crc: "000000005f229cac",
    chase: "b70f58899fe6be50",
    imatrix: "0000005f38c6fbfe",
    branchy: "0000000004ffeb9e",
    dispatch: "aaa23557d2bb6a06",
    memcopy: "926ce9545f6f248c",
  };
  equal(
    cordon("run", guest("bench")).stdout,
    Object.entries(native)
      .map(([name, checksum]) => `${name} ${checksum}\n`)
      .join(""),
  );
});

test("an unknown kernel parameter value gives the kernel's warning and the default, as on Linux", () => {
  const result = cordon("run", guest("hello"), "--cmdline", "asi=maybe");
  equal(result.status, 0);
  match(result.stderr, /kernel: .*asi.*maybe/i);
});

test("--check evaluates the safety properties and finds no violation in the default preset", () => {
  const result = cordon("run", guest("hello"), "--check", "--gear", "detailed");
  equal(result.status, 0, result.stderr);
  match(result.stderr, /safety properties S1 to S10: no violation/);
});

const missing = join(scratch, "missing.elf");
const notElf = join(scratch, "text.elf");
writeFileSync(notElf, "hello, I am not a program\n".repeat(10));
const unwritable = join(scratch, "no-such-folder", "ledger.json");
copyFileSync(guest("hello"), join(scratch, "fine.elf"));

const BAD: readonly { readonly what: string; readonly args: readonly string[]; readonly says: RegExp }[] = [
  {
    what: "an unknown command",
    args: ["rnu"],
    says: /unknown command rnu; one of demo, run, attack, map, options, soak, check, explain, cpus/,
  },
  { what: "an unknown topic", args: ["explain", "asi"], says: /explain: asi: one of rfc-v2, cordon-fast is accepted/ },
  { what: "a seed that is none", args: ["soak", "--seed", "x"], says: /--seed x: a whole number from 0 to 4294967295 is accepted/ },
  { what: "a script that is none", args: ["soak", "--replay", notElf], says: /text\.elf:1: not a line of JSON/ },
  { what: "a counterexample that is none", args: ["check", "--replay", notElf], says: /text\.elf: not JSON; a replay file that/ },
  { what: "a counterexample that is none, with real code", args: ["run", "--replay", notElf], says: /text\.elf: not JSON; a replay file/ },
  {
    what: "a counterexample and options",
    args: ["run", "--replay", notElf, "--cpus", "2"],
    says: /with --replay nothing else is accepted; the rest stands in/,
  },
  { what: "no guest", args: ["run"], says: /takes one guest image \(none given\)/ },
  { what: "two guests", args: ["run", notElf, notElf], says: /takes one guest image \(2 given/ },
  { what: "a file that is not there", args: ["run", missing], says: /missing\.elf: cannot be read: no such file/ },
  { what: "a folder", args: ["run", scratch], says: /cannot be read: it is a folder/ },
  { what: "a file that is not an ELF", args: ["run", notElf], says: /text\.elf: not an ELF file; accepted: a static ELF64/ },
  { what: "a 32-bit class", args: ["run", damaged("class.elf", { 4: 1 })], says: /ELF class 1, not 64-bit/ },
  { what: "another machine", args: ["run", damaged("machine.elf", { 18: 183 })], says: /ELF machine 183, not x86-64/ },
  { what: "a cut file", args: ["run", damaged("cut.elf", { 56: 200 })], says: /cut\.elf: .*accepted: a static ELF64/ },
  {
    what: "segments outside memory",
    args: ["run", damaged("outside.elf", { 91: 0x7f })],
    says: /outside\.elf: .*accepted: a static ELF64/,
  },
  { what: "an unknown CPU", args: ["run", guest("hello"), "--cpu", "i486"], says: /--cpu i486: one of skx, clx, skx-fred is accepted/ },
  { what: "an unknown option", args: ["run", guest("hello"), "--colour"], says: /unknown option '--colour'; accepted: --cpu VALUE/ },
  { what: "an option without its value", args: ["run", guest("hello"), "--cpu"], says: /run: option '--cpu/ },
  {
    what: "a gear that is none",
    args: ["run", guest("hello"), "--gear", "fast"],
    says: /--gear fast: one of architectural, detailed is accepted/,
  },
  { what: "too many CPUs", args: ["run", guest("hello"), "--cpus", "9"], says: /--cpus 9: a whole number from 1 to 8/ },
  { what: "a size that is none", args: ["run", guest("hello"), "--memory", "lots"], says: /--memory lots: a size from 2M to 1024M/ },
  {
    what: "a ledger that cannot be written",
    args: ["run", guest("hello"), "--ledger", unwritable],
    says: /ledger\.json: cannot be written: no such file or folder/,
  },
  { what: "an unknown attack", args: ["attack", "rowhammer"], says: /attack rowhammer: one of l1tf, spectre-v1 is accepted/ },
  { what: "an unknown model", args: ["cpus", "i486"], says: /cpus i486: one of skx, clx, skx-fred is accepted/ },
  { what: "a seed that is none", args: ["demo", "--seed", "x"], says: /--seed x: a whole number/ },
];

for (const { what, args, says } of BAD) {
  test(`${what}: one line, exit status 2, nothing on standard output`, () => {
    const result = cordon(...args);
    equal(result.status, 2, result.stderr);
    match(result.stderr, says);
    equal(result.stderr.trim().split("\n").length, 1, result.stderr);
    equal(result.stdout, "");
  });
}

test("what could not be written leaves nothing behind", () => {
  ok(!existsSync(unwritable));
});

test("help goes to standard output; no arguments at all is bad input", () => {
  match(cordon("--help").stdout, /cordon COMMAND/);
  equal(cordon("--help").status, 0);
  equal(cordon().status, 2);
  for (const command of ["run", "attack", "demo", "cpus"]) {
    const help = cordon(command, "--help");
    equal(help.status, 0, help.stderr);
    match(help.stdout, new RegExp(`^cordon ${command}`));
  }
});

test("cordon cpus lists the models, and with a key every number with its source", () => {
  match(cordon("cpus").stdout, /skx\s+Skylake-SP/);
  const details = cordon("cpus", "skx").stdout;
  match(details, /l1d\s+64\s+8\s+32\s+4/);
  match(details, /ibpb\s+4,500\s+b22/);
});

const twoGuests = join(root, "scenarios", "two-guests.yaml");

test("a scenario: each line of the consoles carries its name, and the statuses are told", () => {
  const result = cordon("run", "--scenario", twoGuests);
  equal(result.status, 0, result.stderr);
  deepEqual(result.stdout.split("\n").sort(), ["", "first: hello from the guest (16 MiB)", "second: 5 hypercalls, 0 failed"]);
  match(result.stderr, /^first +guest +halt +0/m);
  match(result.stderr, /^second +guest +exit +0/m);
});

test("a scenario's status is that of the first that did not end with 0", () => {
  const path = join(scratch, "fails.yaml");
  const image = guest("attack-l1tf");
  writeFileSync(path, `guests:\n  - {name: good, image: ${guest("hello")}}\n  - {name: bad, image: ${image}, append: length=1000}\n`);
  equal(cordon("run", "--scenario", path).status, 2);
});

test("a scenario is refused with file, line and what is accepted; so are options beside it and images that are none", () => {
  const path = join(scratch, "bad.yaml");
  writeFileSync(path, "cpus: 1\nguests:\n  - {name: a, image: nothing.elf, ram: 1M}\n");
  const wrong = cordon("run", "--scenario", path);
  equal(wrong.status, 2);
  match(wrong.stderr, /^cordon: .*bad\.yaml:3: guests\[0\]: unknown key "ram"; accepted: name, image, memory, append, cpu\n$/);
  writeFileSync(path, "guests:\n  - {name: a, image: nothing.elf}\n");
  match(cordon("run", "--scenario", path).stderr, /^cordon: .*nothing\.elf: cannot be read: no such file or folder\n$/);
  match(cordon("run", "--scenario", twoGuests, "--cpus", "2").stderr, /^cordon: run: with --scenario only --ledger is accepted/);
  equal(cordon("map", path).status, 2);
});

test("map: no restricted address space reaches a sensitive page outside a user half, the unrestricted one does", () => {
  const json = join(scratch, "map.json");
  const result = cordon("map", twoGuests, "--json", json);
  equal(result.status, 0, result.stderr);
  match(result.stdout, /^first \(pid 1, mm 2\)/m);
  interface Row {
    readonly region: string;
    readonly counts: readonly { readonly pages: number; readonly sensitive: number }[];
  }
  const { maps } = JSON.parse(readFileSync(json, "utf8")) as { maps: readonly { spaces: readonly string[]; rows: readonly Row[] }[] };
  for (const map of maps) {
    const kernelHalf = map.rows.filter((row) => row.region !== "user half");
    const sensitive = (space: number): number => kernelHalf.reduce((sum, row) => sum + (row.counts[space]?.sensitive ?? 0), 0);
    ok(map.spaces.includes("KVM"), map.spaces.join());
    ok(sensitive(0) > 0);
    for (const [space, name] of map.spaces.entries()) if (space > 0) equal(sensitive(space), 0, name);
  }
});

test("map --at a cycle that never comes says so", () => {
  const result = cordon("map", twoGuests, "--at", "999999999999");
  equal(result.status, 1);
  match(result.stderr, /had ended before that cycle/);
});

test("explain names every difference with its consequence and a command, and every option", () => {
  const differences = cordon("explain", "rfc-v2");
  equal(differences.status, 0);
  equal(differences.stdout.match(/^ {2}consequence /gm)?.length, differences.stdout.match(/^[a-z-]+ \(patch \d\d; /gm)?.length);
  for (const [, command = ""] of differences.stdout.matchAll(/^ {2}see it +npm test -- (\S+)$/gm))
    ok(existsSync(join(root, "dist", "src", `${command}.test.js`)), command);
  const options = cordon("explain", "cordon-fast").stdout;
  match(options, /^cordon\.noflush +off +off +on /m);
});

const program = (name: string): string => join(root, "programs", "built", `${name}.elf`);

test("run --host: standard output, standard error and status are the program's", () => {
  const result = cordon("run", "--host", program("hello"), "one", "--", "--two");
  equal(result.stdout, "hello from hello.elf\nargument 1: one\nargument 2: --two\n");
  equal(result.stderr, "and this is standard error\n");
  equal(result.status, 7);
});

test("run --host --root: the program's files are the folder's", () => {
  const folder = mkdtempSync(join(scratch, "root-"));
  writeFileSync(join(folder, "text"), "from a file\n");
  const result = cordon("run", "--host", program("cat"), "/text", "--root", folder, "--details");
  equal(result.stdout, "from a file\n");
  // The page cache is sensitive: reading it leaves, and the ledger says where.
  match(result.stderr, /^page fault +copy_to_user +init \(1\) +0x[0-9a-f]+ +memory of the kernel \(sensitive\), pages +grab_page /m);
});

test("run --host --ledger, --check", () => {
  const file = join(scratch, "host.json");
  const result = cordon("run", "--host", program("fork"), "--ledger", file, "--check", "--cpus", "2");
  equal(result.status, 0, result.stderr);
  const { ledger, violations } = JSON.parse(readFileSync(file, "utf8")) as { ledger: { systemCalls: number }; violations: unknown };
  ok(ledger.systemCalls > 10);
  deepEqual(violations, []);
});

test("run --host: what is no program, no folder or not for programs is refused in one line", () => {
  const noProgram = join(scratch, "no-program");
  writeFileSync(noProgram, "text");
  for (const [args, says] of [
    [["--host", noProgram], /no-program: the kernel cannot execute it \(error -8\); a static ELF program for x86 is accepted\n$/],
    [["--host", program("hello"), "--root", noProgram], /no-program: a folder is accepted\n$/],
    [["--host", program("hello"), "--append", "x"], /--append is a guest's/],
    [["--host", program("hello"), "--memory", "1M"], /--memory 1M: a size from 64M/],
    [[guest("hello"), "--root", scratch], /--root is accepted with --host/],
    [["--host"], /takes a program and its arguments \(none given\)/],
  ] as const) {
    const result = cordon("run", ...args);
    equal(result.status, 2, args.join(" "));
    match(result.stderr, says);
    equal(result.stderr.split("\n").length, 2);
  }
});

test("a scenario of programs and a guest: what their families print carries their names", () => {
  const result = cordon("run", "--scenario", join(root, "scenarios", "programs-and-guest.yaml"));
  equal(result.status, 0, result.stderr);
  match(result.stdout, /^family: fork: ok$/m);
  match(result.stdout, /^threads: threads: ok, 2000$/m);
  match(result.stdout, /^guest: 50 hypercalls, 0 failed$/m);
});

test("soak: standard output is the same for the same seed, and a script can be replayed", () => {
  const first = cordon("soak", "--seed", "5", "--events", "2000", "--items", "300");
  equal(first.status, 0, first.stdout);
  match(first.stdout, /nothing found: no violation of S1 to S10, no frame leaked\n$/);
  equal(cordon("soak", "--seed", "5", "--events", "2000", "--items", "300").stdout, first.stdout);
  const script = join(scratch, "script.jsonl");
  writeFileSync(
    script,
    '{"preset":"cordon","model":"skx","commandLine":"asi=on","cpus":1,"memoryMegabytes":64,"processes":1}\n{"slot":0,"action":"getpid","args":[]}\n',
  );
  const replayed = cordon("soak", "--replay", script);
  equal(replayed.status, 0, replayed.stderr);
  match(replayed.stdout, /nothing found\n$/);
});

test("check finds what was posted, tells it as a story, and its file replays on the abstract machine and with real code", () => {
  const [file, out, json] = ["posted.yaml", "found.json", "story.json"].map((name) => join(scratch, name)) as [string, string, string];
  // The training of a process without a domain of its own is forgotten when another mm is loaded (spec 2.5).
  writeFileSync(
    file,
    `base: small-kvm
preset: rfc-v2
cpu: skx
operations: [KVM_RUN HLT, sched_yield]
cmdline: asi=on mitigations=off kvm-intel.vmentry_l1d_flush=never asi_userspace=off
properties: [S1]
injections: []
injections-per-event: 0
`,
  );
  const found = cordon("check", file, "--out", out, "--story", json);
  equal(found.status, 1, found.stderr);
  match(found.stdout, /^1\. cpu 0 \(process-0 \(pid 1\), user mode\): KVM_RUN HLT$/m);
  match(found.stdout, /^S1: no code runs with predictor entries that its domain refuses\n.* in enter_domain < /m);
  const story = JSON.parse(readFileSync(json, "utf8")) as { readonly format: string; readonly end: { readonly owner: string } };
  deepEqual([story.format, story.end.owner], ["cordon-story-1", "process-1 (pid 2)"]);
  const again = cordon("check", "--replay", out);
  deepEqual([again.status, again.stdout.endsWith("\nfound again\n")], [1, true], again.stderr);
  const real = cordon("run", "--replay", out);
  equal(real.status, 1, real.stderr);
  match(real.stdout, /^reproduced: event 1: S1 /);
  match(real.stdout, /^ {2}branch target buffer: an entry that leads to 0x4008[0-9a-f]+, trained by process-1 \(pid 2\) in user mode$/m);
  // Nothing is left half-written.
  deepEqual(
    readdirSync(scratch).filter((name) => name.endsWith(".tmp")),
    [],
  );
});

/*
 * A model of address space isolation for Spin, of comparable subject to what the prover explores by running the kernel itself: two CPUs, two
 * processes with a VM each, the classes KVM and USERSPACE, the order of steps in asi_enter() and asi_exit(), taints beside the truth that they
 * stand for, one interrupt in each event, and the TLB flush that one CPU asks of the other. It measures a checker on models against a
 * checker on code (bench/prover-spin.ts); what Cordon says of ASI it does not say by this.
 */

#define CPUS   2
#define PROCS  2
#define NOBODY PROCS

/* Where CR3, curr_asi and a target point. */
#define NONE 0
#define KVM  1
#define USER 2

/* Taints. */
#define KERNEL_DATA      1
#define USER_DATA        2
#define GUEST_DATA       4
#define OTHER_MM_DATA    8
#define USER_CONTROL     16
#define GUEST_CONTROL    32
#define OTHER_MM_CONTROL 64
#define DATA_MASK        15
#define CONTROL_MASK     112
#define OF_LOADED_MM     54

#define PREVENT(class) (class == KVM -> OTHER_MM_CONTROL : GUEST_CONTROL | OTHER_MM_CONTROL)
#define PROTECT(class) (class == KVM -> KERNEL_DATA | USER_DATA | OTHER_MM_DATA : KERNEL_DATA | OTHER_MM_DATA)
#define LEAVES(class)  (class == KVM -> GUEST_DATA | GUEST_CONTROL : USER_DATA | USER_CONTROL)

/* The truth: whose data the buffers hold, and whose training the predictors. */
#define KERNEL      1
#define OF_USER(p)  (2 << p)
#define OF_GUEST(p) (8 << p)
#define OF_MM(p)    (10 << p)

/* Where a path stands. */
#define AT_USER    0
#define AT_GUEST   1
#define AT_IDLE    2
#define CALL       3
#define RETURN     4
#define ENTER      5
#define ENTER_CURR 6
#define ENTER_OWED 7
#define ENTER_IBPB 8
#define ENTER_AND  9
#define ENTER_CR3  10
#define ENTER_DATA 11
#define ENTER_WIPE 12
#define ENTER_WIPED 13
#define ENTER_SET  14
#define EXIT       15
#define EXIT_OWED  16
#define EXIT_IBPB  17
#define EXIT_AND   18
#define EXIT_TAINT 19
#define EXIT_CR3   20
#define EXIT_CURR  21
#define RUN_VM     22
#define VM_EXIT    23
#define SLEEP      24
#define SWITCH     25
#define SWITCH_OR  26
#define SWITCH_AND 27
#define SWITCH_MM  28
#define ASK        29
#define AWAIT      30
#define HANDLE     31
#define FLUSH      32
#define FLUSHED    33
#define IRET       34

byte target[3];
bool isBusy[3];
bool request[CPUS];

/* Subroutines have one place to return to in each of the two levels: the task's path, and an interrupt on top. */
#define AT(x)        (pc[level] == x)
#define GO(x)        pc[level] = x
#define GOSUB(x, to) back[level] = to; pc[level] = x
#define BACK         pc[level] = back[level]

/* What the unrestricted kernel does brings its data in. */
inline acts() {
  if
  :: cr3 == NONE -> data = data | KERNEL
  :: else -> skip
  fi
}

/* Untrusted code has run until now: S1, S2, S3 and S7 hold of what it could use and sample, and it leaves its own. */
inline ran() {
  if
  :: level == 0 && AT(AT_USER) ->
    assert(cr3 == USER && curr == USER && target[task] == USER);
    assert((control & ~OF_USER(task)) == 0);
    assert((data & ~OF_MM(task)) == 0);
    data = data | OF_USER(task); control = control | OF_USER(task)
  :: level == 0 && AT(AT_GUEST) ->
    assert(cr3 == KVM && curr == KVM && target[task] == KVM);
    assert((control & ~OF_MM(task)) == 0);
    assert((data & ~OF_GUEST(task)) == 0);
    data = data | OF_GUEST(task); control = control | OF_GUEST(task)
  :: else -> skip
  fi
}

proctype Cpu(byte c) {
  byte pc[2];
  byte back[2];
  byte owed[2];
  byte level = 0;
  bool mayInterrupt = true;
  byte task = c;
  byte chosen = NOBODY;
  byte loaded = c;
  byte curr = NONE;
  byte cr3 = NONE;
  byte taints = KERNEL_DATA;
  byte data = 0;
  byte control = 0;

  d_step { pc[0] = RETURN; pc[1] = HANDLE };

  do
  /* Interrupts: the one of this event, and what the other CPU asks. */
  :: d_step { level == 0 && mayInterrupt -> ran(); mayInterrupt = false; level = 1; pc[1] = HANDLE }
  :: d_step { level == 0 && request[c] -> ran(); level = 1; pc[1] = FLUSH }
  :: atomic {
       AT(HANDLE) -> acts();
       if
       :: GO(IRET)
       :: GOSUB(EXIT, IRET)
       fi
     }
  :: d_step { AT(FLUSH) -> acts(); GOSUB(EXIT, FLUSHED) }
  :: d_step { AT(FLUSHED) -> acts(); request[c] = false; GO(IRET) }
  :: d_step {
       AT(IRET) -> acts();
       if
       :: target[task] != NONE && curr != target[task] -> GOSUB(ENTER, IRET)
       :: else -> owed[1] = 0; back[1] = 0; pc[1] = HANDLE; level = 0
       fi
     }

  /* User code calls the kernel, which relaxes. */
  :: d_step { level == 0 && AT(AT_USER) && !request[c] -> ran(); target[task] = NONE; mayInterrupt = true; GO(CALL) }
  :: atomic {
       level == 0 && AT(CALL) -> acts();
       if
       :: GO(RETURN)
       :: GOSUB(EXIT, RETURN)
       :: GO(RUN_VM)
       :: GOSUB(EXIT, SLEEP)
       :: GOSUB(EXIT, ASK)
       fi
     }
  :: d_step { level == 0 && AT(RETURN) -> acts(); target[task] = USER; GOSUB(ENTER, AT_USER) }

  /* A guest runs, and leaves. */
  :: d_step { level == 0 && AT(RUN_VM) -> acts(); target[task] = KVM; GOSUB(ENTER, AT_GUEST) }
  :: d_step { level == 0 && AT(AT_GUEST) && !request[c] -> ran(); target[task] = NONE; mayInterrupt = true; GO(VM_EXIT) }
  :: atomic {
       level == 0 && AT(VM_EXIT) -> acts();
       if
       :: GO(RUN_VM)
       :: GOSUB(EXIT, RUN_VM)
       :: GO(RETURN)
       fi
     }

  /* Another process. */
  :: d_step { level == 0 && AT(SLEEP) -> acts(); isBusy[task] = false; task = NOBODY; mayInterrupt = true; GO(AT_IDLE) }
  :: atomic {
       level == 0 && AT(AT_IDLE) && !request[c] && (!isBusy[0] || !isBusy[1]) -> acts();
       if
       :: !isBusy[0] -> chosen = 0
       :: !isBusy[1] -> chosen = 1
       fi;
       isBusy[chosen] = true; mayInterrupt = true;
       if
       :: chosen == loaded -> task = chosen; chosen = NOBODY; GO(RETURN)
       :: else -> GOSUB(EXIT, SWITCH)
       fi
     }
  :: d_step { level == 0 && AT(SWITCH) -> acts(); owed[0] = taints; GO(SWITCH_OR) }
  :: d_step {
       level == 0 && AT(SWITCH_OR) -> acts();
       taints = taints | ((owed[0] & CONTROL_MASK) -> OTHER_MM_CONTROL : 0) | ((owed[0] & DATA_MASK) -> OTHER_MM_DATA : 0);
       owed[0] = 0; GO(SWITCH_AND)
     }
  :: d_step { level == 0 && AT(SWITCH_AND) -> acts(); taints = taints & (127 - OF_LOADED_MM); GO(SWITCH_MM) }
  :: d_step { level == 0 && AT(SWITCH_MM) -> acts(); loaded = chosen; task = chosen; chosen = NOBODY; GO(RETURN) }

  /* A mapping goes: the other CPU flushes before this one goes on. */
  :: d_step { level == 0 && AT(ASK) -> acts(); request[1 - c] = true; GO(AWAIT) }
  :: d_step { level == 0 && AT(AWAIT) && !request[1 - c] -> acts(); GO(RETURN) }

  /* asi_enter() of the task's target. */
  :: d_step {
       AT(ENTER) -> acts();
       if
       :: curr == target[task] -> BACK
       :: else -> GO(ENTER_CURR)
       fi
     }
  :: d_step { AT(ENTER_CURR) -> acts(); curr = target[task]; GO(ENTER_OWED) }
  :: d_step {
       AT(ENTER_OWED) -> acts(); owed[level] = taints & PREVENT(target[task]);
       if
       :: owed[level] != 0 -> GO(ENTER_IBPB)
       :: else -> GO(ENTER_CR3)
       fi
     }
  :: d_step { AT(ENTER_IBPB) -> acts(); control = 0; owed[level] = 0; GO(ENTER_AND) }
  :: d_step { AT(ENTER_AND) -> acts(); taints = taints & DATA_MASK; GO(ENTER_CR3) }
  :: d_step { AT(ENTER_CR3) -> acts(); cr3 = target[task]; GO(ENTER_DATA) }
  :: d_step {
       AT(ENTER_DATA) -> acts(); owed[level] = taints & PROTECT(target[task]);
       if
       :: owed[level] != 0 -> GO(ENTER_WIPE)
       :: else -> GO(ENTER_SET)
       fi
     }
  :: d_step { AT(ENTER_WIPE) -> acts(); data = 0; owed[level] = 0; GO(ENTER_WIPED) }
  :: d_step { AT(ENTER_WIPED) -> acts(); taints = taints & CONTROL_MASK; GO(ENTER_SET) }
  :: d_step { AT(ENTER_SET) -> acts(); taints = taints | LEAVES(target[task]); BACK }

  /* asi_exit(). */
  :: d_step {
       AT(EXIT) -> acts();
       if
       :: curr == NONE -> BACK
       :: else -> GO(EXIT_OWED)
       fi
     }
  :: d_step {
       AT(EXIT_OWED) -> acts(); owed[level] = taints & CONTROL_MASK;
       if
       :: owed[level] != 0 -> GO(EXIT_IBPB)
       :: else -> GO(EXIT_TAINT)
       fi
     }
  :: d_step { AT(EXIT_IBPB) -> acts(); control = 0; owed[level] = 0; GO(EXIT_AND) }
  :: d_step { AT(EXIT_AND) -> acts(); taints = taints & DATA_MASK; GO(EXIT_TAINT) }
  :: d_step { AT(EXIT_TAINT) -> acts(); taints = taints | KERNEL_DATA; GO(EXIT_CR3) }
  :: d_step { AT(EXIT_CR3) -> assert(control == 0); cr3 = NONE; acts(); GO(EXIT_CURR) }
  :: d_step { AT(EXIT_CURR) -> acts(); curr = NONE; BACK }
  od
}

init {
  atomic { isBusy[0] = true; isBusy[1] = true; run Cpu(0); run Cpu(1) }
}

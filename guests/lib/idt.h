// An interrupt descriptor table for guests that want to see exceptions: every vector records itself and skips or leaves.
#ifndef IDT_H
#define IDT_H
#include "guest.h"

/** What the last exception was; vector is 256 while there was none. */
struct exception {
	uint64_t vector;
	uint64_t error_code; // 0 where the vector has none
	uint64_t rip;        // of the faulting instruction (#BP: of the next one)
	uint64_t cr2;
};
extern volatile struct exception last_exception;

/** Where execution goes on after an exception; set before something that faults. */
extern void *volatile resume_at;

/** Loads an IDT whose 32 exception vectors record into last_exception and go on at resume_at. */
void idt_load(void);

#endif

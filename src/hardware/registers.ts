// Control register, flag and MSR names. SDM vol. 3, 2.5 (control registers), vol. 4 (MSRs).

export const CR0_PE = 1 << 0;
export const CR0_MP = 1 << 1;
export const CR0_EM = 1 << 2;
export const CR0_TS = 1 << 3;
export const CR0_ET = 1 << 4;
export const CR0_NE = 1 << 5;
export const CR0_WP = 1 << 16;
export const CR0_AM = 1 << 18;
export const CR0_NW = 1 << 29;
export const CR0_CD = 1 << 30;
export const CR0_PG = 0x80000000;

export const CR4_DE = 1 << 3;
export const CR4_PSE = 1 << 4;
export const CR4_PAE = 1 << 5;
export const CR4_MCE = 1 << 6;
export const CR4_PGE = 1 << 7;
export const CR4_OSFXSR = 1 << 9;
export const CR4_OSXMMEXCPT = 1 << 10;
export const CR4_UMIP = 1 << 11;
export const CR4_VMXE = 1 << 13;
export const CR4_FSGSBASE = 1 << 16;
export const CR4_PCIDE = 1 << 17;
export const CR4_OSXSAVE = 1 << 18;
export const CR4_SMEP = 1 << 20;
export const CR4_SMAP = 1 << 21;
/** Bit 32: a number, not a mask for 32-bit operators. */
export const CR4_FRED = 2 ** 32;

export const EFER_SCE = 1 << 0;
export const EFER_LME = 1 << 8;
export const EFER_LMA = 1 << 10;
export const EFER_NXE = 1 << 11;

export const RFLAGS_FIXED = 1 << 1;
export const RFLAGS_TF = 1 << 8;
export const RFLAGS_IF = 1 << 9;
export const RFLAGS_DF = 1 << 10;
export const RFLAGS_NT = 1 << 14;
export const RFLAGS_AC = 1 << 18;

export const MSR_IA32_TSC = 0x10;
export const MSR_IA32_APICBASE = 0x1b;
export const MSR_IA32_FEAT_CTL = 0x3a;
export const MSR_IA32_SPEC_CTRL = 0x48;
export const MSR_IA32_PRED_CMD = 0x49;
export const MSR_IA32_ARCH_CAPABILITIES = 0x10a;
export const MSR_IA32_FLUSH_CMD = 0x10b;
export const MSR_IA32_TSX_CTRL = 0x122;
export const MSR_IA32_MCG_CAP = 0x179;
export const MSR_IA32_MCG_STATUS = 0x17a;
/** First of the four registers of machine-check bank 0. SDM vol. 3, 17.3.2. */
export const MSR_IA32_MC0_CTL = 0x400;
export const MSR_IA32_MC0_STATUS = 0x401;
export const MSR_IA32_MC0_ADDR = 0x402;
export const MSR_IA32_MC0_MISC = 0x403;
/** MCG_STATUS: the instruction can be restarted; the error belongs to it; a machine check is being handled. */
export const MCG_STATUS_RIPV = 1 << 0;
export const MCG_STATUS_EIPV = 1 << 1;
export const MCG_STATUS_MCIP = 1 << 2;
/** High half of MCi_STATUS: valid, uncorrected, enabled, MISC and ADDR hold something, the context is corrupt. */
export const MCI_STATUS_VAL = 0x80000000;
export const MCI_STATUS_UC = 0x20000000;
export const MCI_STATUS_EN = 0x10000000;
export const MCI_STATUS_MISCV = 0x08000000;
export const MCI_STATUS_ADDRV = 0x04000000;
export const MCI_STATUS_PCC = 0x02000000;
export const MSR_IA32_SYSENTER_CS = 0x174;
export const MSR_IA32_SYSENTER_ESP = 0x175;
export const MSR_IA32_SYSENTER_EIP = 0x176;
export const MSR_IA32_MISC_ENABLE = 0x1a0;
export const MSR_IA32_FRED_RSP0 = 0x1cc;
export const MSR_IA32_FRED_RSP1 = 0x1cd;
export const MSR_IA32_FRED_RSP2 = 0x1ce;
export const MSR_IA32_FRED_RSP3 = 0x1cf;
export const MSR_IA32_FRED_STKLVLS = 0x1d0;
export const MSR_IA32_FRED_SSP1 = 0x1d1;
export const MSR_IA32_FRED_SSP2 = 0x1d2;
export const MSR_IA32_FRED_SSP3 = 0x1d3;
export const MSR_IA32_FRED_CONFIG = 0x1d4;
export const MSR_IA32_DEBUGCTLMSR = 0x1d9;
export const MSR_IA32_CR_PAT = 0x277;
export const MSR_IA32_VMX_BASIC = 0x480;
export const MSR_IA32_VMX_PINBASED_CTLS = 0x481;
export const MSR_IA32_VMX_PROCBASED_CTLS = 0x482;
export const MSR_IA32_VMX_EXIT_CTLS = 0x483;
export const MSR_IA32_VMX_ENTRY_CTLS = 0x484;
export const MSR_IA32_VMX_MISC = 0x485;
export const MSR_IA32_VMX_CR0_FIXED0 = 0x486;
export const MSR_IA32_VMX_CR0_FIXED1 = 0x487;
export const MSR_IA32_VMX_CR4_FIXED0 = 0x488;
export const MSR_IA32_VMX_CR4_FIXED1 = 0x489;
export const MSR_IA32_VMX_PROCBASED_CTLS2 = 0x48b;
export const MSR_IA32_VMX_EPT_VPID_CAP = 0x48c;
export const MSR_IA32_VMX_TRUE_PINBASED_CTLS = 0x48d;
export const MSR_IA32_VMX_TRUE_PROCBASED_CTLS = 0x48e;
export const MSR_IA32_VMX_TRUE_EXIT_CTLS = 0x48f;
export const MSR_IA32_VMX_TRUE_ENTRY_CTLS = 0x490;
export const MSR_IA32_TSC_DEADLINE = 0x6e0;
export const MSR_X2APIC_ID = 0x802;
export const MSR_X2APIC_EOI = 0x80b;
export const MSR_X2APIC_SIVR = 0x80f;
export const MSR_X2APIC_ICR = 0x830;
export const MSR_X2APIC_LVTT = 0x832;
export const MSR_EFER = 0xc0000080;
export const MSR_STAR = 0xc0000081;
export const MSR_LSTAR = 0xc0000082;
export const MSR_CSTAR = 0xc0000083;
export const MSR_SYSCALL_MASK = 0xc0000084;
export const MSR_FS_BASE = 0xc0000100;
export const MSR_GS_BASE = 0xc0000101;
export const MSR_KERNEL_GS_BASE = 0xc0000102;
export const MSR_TSC_AUX = 0xc0000103;

export const PRED_CMD_IBPB = 1 << 0;
export const L1D_FLUSH = 1 << 0;
export const SPEC_CTRL_IBRS = 1 << 0;
export const SPEC_CTRL_STIBP = 1 << 1;
export const SPEC_CTRL_SSBD = 1 << 2;
export const TSX_CTRL_RTM_DISABLE = 1 << 0;
export const TSX_CTRL_CPUID_CLEAR = 1 << 1;

/** Low half of the x2APIC ICR: delivery modes. The high half is the destination APIC id (= CPU number). SDM vol. 3, 12.6.1. */
export const ICR_FIXED = 0;
export const ICR_NMI = 0x400;
/** LVT timer in TSC-deadline mode (bits 18:17 = 10b); bits 7:0 vector; bit 16 masked. */
export const LVTT_TSC_DEADLINE = 0x40000;

/** Exception vectors. SDM vol. 3, table 7-1. */
export const VECTOR_DE = 0;
export const VECTOR_DB = 1;
export const VECTOR_NMI = 2;
export const VECTOR_BP = 3;
export const VECTOR_OF = 4;
export const VECTOR_BR = 5;
export const VECTOR_UD = 6;
export const VECTOR_NM = 7;
export const VECTOR_DF = 8;
export const VECTOR_TS = 10;
export const VECTOR_NP = 11;
export const VECTOR_SS = 12;
export const VECTOR_GP = 13;
export const VECTOR_PF = 14;
export const VECTOR_MF = 16;
export const VECTOR_AC = 17;
export const VECTOR_MC = 18;
export const VECTOR_XM = 19;

/** Page-fault error code. SDM vol. 3, 5.7. Kernel names X86_PF_*. */
export const PF_PROT = 1 << 0;
export const PF_WRITE = 1 << 1;
export const PF_USER = 1 << 2;
export const PF_RSVD = 1 << 3;
export const PF_INSTR = 1 << 4;

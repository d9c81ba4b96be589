// Pages of mapped files: what a file's kind gives, with a reference (kernel: vm_ops->fault()).
import { EINVAL, type Errno, isErr } from "../../abi/index.ts";
import type { Ptr } from "../../hardware/index.ts";
import { fileOperations } from "../linux/file-operations.ts";
import { File } from "../linux/file-struct.ts";
import { getPage } from "./page-alloc.ts";
import { type PagePtr, virtToPage } from "./page-struct.ts";

/** The page at `pageOffset` of a file, with a reference. @returns ENOMEM; another error where the file has no page there. */
export function fileFaultPage(file: Ptr<"file">, pageOffset: number): PagePtr | Errno {
  const { faultPage, mapPage } = fileOperations(File.at(file).kind);
  if (faultPage !== undefined) return faultPage(file, pageOffset);
  const address = mapPage?.(file, pageOffset) ?? EINVAL;
  if (isErr(address)) return address;
  const page = virtToPage(address);
  getPage(page);
  return page;
}

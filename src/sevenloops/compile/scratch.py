"""Scratch memory of kernels: blocks that are kept from call to call.

The C library hands large blocks back to the system when they are freed, and the next call takes a page fault for every
4 KB of them: half of the time of a Winograd layer whose tasks need a megabyte each. Here a freed block goes into a list of
its size (powers of two from 64 KB), and a thread takes its own last block first, which may still be in its cache. From 2 MB
on, blocks ask for huge pages. Smaller requests go to the C library.

Kept memory is at most twice what was in use at one time. A list is locked for a few instructions; whoever does not get the
lock soon gets a block of the C library's, so nobody ever waits.
A list is whole after every single store, so a process forked in that moment may unlock it (`pool`).

The code is LLVM IR for the same reason as the thread pool's, and runs where that runs (`pool.runs_on`).
"""

from __future__ import annotations

__all__ = ["SCRATCH_IR"]

HEADER_BYTES = 128  # in front of each block: next in the list, its class (0: not kept), its last user
SLACK_BYTES = 128  # behind it: vectors may be loaded across the end
SMALLEST_KEPT = 1 << 16
HUGE_PAGE = 1 << 21
MADV_HUGEPAGE = 14
TRIES = 1000

SCRATCH_IR = f"""
@scratch.lock = global i32 0, align 64
@scratch.lists = internal global [64 x ptr] zeroinitializer, align 64
declare i32 @posix_memalign(ptr, i64, i64)
declare i32 @madvise(ptr, i64, i32)
declare void @free(ptr)
declare i64 @pthread_self()
declare i64 @llvm.ctlz.i64(i64, i1)

define internal i1 @scratch.try_lock() {{
entry:
  br label %loop
loop:
  %i = phi i32 [0, %entry], [%i1, %again]
  %old = cmpxchg ptr @scratch.lock, i32 0, i32 1 acquire monotonic
  %got = extractvalue {{ i32, i1 }} %old, 1
  br i1 %got, label %done, label %again
again:
  %i1 = add i32 %i, 1
  %more = icmp ult i32 %i1, {TRIES}
  br i1 %more, label %loop, label %done
done:
  ret i1 %got
}}

define internal ptr @scratch.fresh(i64 %bytes, i64 %class) {{
  %slot = alloca ptr
  %large = icmp uge i64 %bytes, {HUGE_PAGE}
  %alignment = select i1 %large, i64 {HUGE_PAGE}, i64 128
  %code = call i32 @posix_memalign(ptr %slot, i64 %alignment, i64 %bytes)
  %failed = icmp ne i32 %code, 0
  br i1 %failed, label %none, label %got
none:
  ret ptr null
got:
  %block = load ptr, ptr %slot
  br i1 %large, label %advise, label %fill
advise:
  call i32 @madvise(ptr %block, i64 %bytes, i32 {MADV_HUGEPAGE})
  br label %fill
fill:
  %at.class = getelementptr i64, ptr %block, i64 1
  store i64 %class, ptr %at.class
  %data = getelementptr i8, ptr %block, i64 {HEADER_BYTES}
  ret ptr %data
}}

define ptr @sevenloops_malloc(ptr %context, i64 %size) {{
entry:
  %need = add i64 %size, {HEADER_BYTES + SLACK_BYTES}
  %kept = icmp uge i64 %need, {SMALLEST_KEPT}
  br i1 %kept, label %search, label %plain
search:
  %below = sub i64 %need, 1
  %zeros = call i64 @llvm.ctlz.i64(i64 %below, i1 false)
  %class = sub i64 64, %zeros
  %locked = call i1 @scratch.try_lock()
  br i1 %locked, label %scan.start, label %plain
scan.start:
  %self = call i64 @pthread_self()
  %head = getelementptr [64 x ptr], ptr @scratch.lists, i64 0, i64 %class
  br label %scan
scan:
  %link = phi ptr [%head, %scan.start], [%block, %compare]
  %block = load ptr, ptr %link
  %end = icmp eq ptr %block, null
  br i1 %end, label %any, label %compare
compare:
  %at.user = getelementptr i64, ptr %block, i64 2
  %user = load i64, ptr %at.user
  %mine = icmp eq i64 %user, %self
  br i1 %mine, label %take, label %scan
any:
  %first = load ptr, ptr %head
  %empty = icmp eq ptr %first, null
  br i1 %empty, label %new, label %take
take:
  %from = phi ptr [%link, %compare], [%head, %any]
  %taken = load ptr, ptr %from
  %next = load ptr, ptr %taken
  store ptr %next, ptr %from
  store atomic i32 0, ptr @scratch.lock release, align 4
  %data = getelementptr i8, ptr %taken, i64 {HEADER_BYTES}
  ret ptr %data
new:
  store atomic i32 0, ptr @scratch.lock release, align 4
  %bytes = shl i64 1, %class
  %fresh = call ptr @scratch.fresh(i64 %bytes, i64 %class)
  ret ptr %fresh
plain:
  %unkept = call ptr @scratch.fresh(i64 %need, i64 0)
  ret ptr %unkept
}}

define void @sevenloops_free(ptr %context, ptr %data) {{
entry:
  %nothing = icmp eq ptr %data, null
  br i1 %nothing, label %done, label %look
look:
  %block = getelementptr i8, ptr %data, i64 -{HEADER_BYTES}
  %at.class = getelementptr i64, ptr %block, i64 1
  %class = load i64, ptr %at.class
  %unkept = icmp eq i64 %class, 0
  br i1 %unkept, label %release, label %keep
keep:
  %locked = call i1 @scratch.try_lock()
  br i1 %locked, label %push, label %release
push:
  %self = call i64 @pthread_self()
  %at.user = getelementptr i64, ptr %block, i64 2
  store i64 %self, ptr %at.user
  %head = getelementptr [64 x ptr], ptr @scratch.lists, i64 0, i64 %class
  %first = load ptr, ptr %head
  store ptr %first, ptr %block
  store ptr %block, ptr %head
  store atomic i32 0, ptr @scratch.lock release, align 4
  ret void
release:
  call void @free(ptr %block)
  ret void
done:
  ret void
}}
"""

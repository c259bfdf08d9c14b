//! The primitives that [`barrier`](super::barrier) and [`team`](super::team) are made of: the standard library's, or loom's,
//! which runs every interleaving that the memory model allows (`make loom`).

#[cfg(loom)]
pub(super) use loom::{
    hint,
    sync::{Arc, Condvar, Mutex, MutexGuard, atomic},
    thread,
};
#[cfg(not(loom))]
pub(super) use std::{
    hint,
    sync::{Arc, Condvar, Mutex, MutexGuard, atomic},
    thread,
};

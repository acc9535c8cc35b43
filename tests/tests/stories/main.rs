//! Stories told through the controller's wire: the real node with real `qemu-img`, the hypervisor simulated.
//!
//! One binary, so that it links once. Each story is a node of its own in a folder of its own.

mod border;
mod chain;
mod creation;
mod deletion;
mod full_disk;
mod maximum;
mod node;
mod orders;
mod pool;
mod pool_decision;
mod raw;
mod rollback;
mod trouble;

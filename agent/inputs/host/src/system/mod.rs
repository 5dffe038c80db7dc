//! `system.*`: one scraper a file of the kernel's.

pub(crate) mod connections;
pub(crate) mod cpu;
pub(crate) mod disk;
pub(crate) mod filesystem;
pub(crate) mod load;
pub(crate) mod memory;
pub(crate) mod network;
pub(crate) mod paging;
pub(crate) mod pressure;

//! Which control group, as the kernel side tells it: the names of its folders, the innermost first.

/// Longest name of a folder that is kept, with its terminating zero: the names that container runtimes give have 85 bytes.
pub const NAME_BYTES: usize = 96;
/// Folders that are told. A container in a pod of Kubernetes is four deep, and may have groups of its own.
pub const LEVELS: usize = 6;

/// The names of a group and of those around it. The name of the outermost is empty, and so is what is behind it.
pub type Names = [[u8; NAME_BYTES]; LEVELS];

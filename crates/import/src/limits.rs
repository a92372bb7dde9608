//! Bounds on what a foreign file may ask for.

/// Upper bounds used while reading a foreign checkpoint.
///
/// The defaults admit every published potential with room to spare. A file that exceeds one is refused with an
/// error that names the limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Largest file, and largest sum of uncompressed entry sizes of an archive, in bytes.
    pub archive_bytes: u64,
    /// Largest number of entries in an archive.
    pub archive_entries: usize,
    /// Largest ratio of uncompressed to compressed size of one entry; entries below 1 MiB are exempt.
    pub compression_ratio: u64,
    /// Largest pickle, in bytes.
    pub pickle_bytes: u64,
    /// Largest number of records a pickle may create.
    pub objects: usize,
    /// Largest number of references held by all containers of a pickle together.
    pub references: usize,
    /// Largest depth of the pickle machine's stack.
    pub stack: usize,
    /// Largest number of strings, byte strings and copies thereof, in bytes.
    pub text_bytes: u64,
    /// Bytes that the tensors of one state dict may take together; a strided view may repeat its storage.
    pub tensor_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            archive_bytes: 16 << 30,
            archive_entries: 1 << 18,
            compression_ratio: 200,
            pickle_bytes: 256 << 20,
            objects: 4 << 20,
            references: 32 << 20,
            stack: 4 << 20,
            text_bytes: 512 << 20,
            tensor_bytes: 16 << 30,
        }
    }
}

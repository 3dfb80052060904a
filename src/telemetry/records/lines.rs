//! Formatted records on their way to a target.

/// Lines that a target has not taken yet.
#[derive(Debug, Default)]
pub struct Lines {
    bytes: Vec<u8>,
    /// Where each line ends, its line end included.
    ends: Vec<usize>,
}

impl Lines {
    /// Appends what `write` writes, and a line end.
    pub fn push(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        write(&mut self.bytes);
        self.bytes.push(b'\n');
        self.ends.push(self.bytes.len());
    }

    /// Appends all lines of a batch.
    pub fn append(&mut self, other: &Self) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&other.bytes);
        self.ends.extend(other.ends.iter().map(|end| start + end));
    }

    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    pub fn count(&self) -> usize {
        self.ends.len()
    }

    /// The lines, each with its line end.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(&self.ends).map(|(start, end)| &self.bytes[start..*end])
    }

    /// How many lines are complete in the first `bytes` bytes, and where the last of them ends.
    pub fn complete_in(&self, bytes: u64) -> (usize, usize) {
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        let count = self.ends.partition_point(|end| *end <= bytes);
        (count, count.checked_sub(1).map_or(0, |last| self.ends[last]))
    }

    /// Removes the first lines.
    pub fn remove(&mut self, count: usize) {
        let Some(last) = count.checked_sub(1) else { return };
        let end = self.ends[last];
        self.bytes.drain(..end);
        self.ends.drain(..count);
        self.ends.iter_mut().for_each(|other| *other -= end);
    }
}

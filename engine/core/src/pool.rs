//! Page buffers: owned by the driver, named by the machines through [`BufferId`].

use crate::memory::OutOfMemory;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

/// Every buffer starts at a multiple of this many bytes and is a multiple of it long: what
/// `O_DIRECT` asks for.
pub const BUFFER_ALIGNMENT_BYTES: usize = 4096;

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, align(4096))]
struct Aligned([u8; BUFFER_ALIGNMENT_BYTES]);

/// The bytes of one buffer, aligned for `O_DIRECT`.
pub struct Buffer(Box<[Aligned]>);

impl Buffer {
    fn zeroed(length_bytes: usize) -> Result<Self, OutOfMemory> {
        let pages = length_bytes.div_ceil(BUFFER_ALIGNMENT_BYTES);
        // Zeroed memory comes straight from the kernel, untouched until it is used.
        let zeroed = Aligned::new_vec_zeroed(pages);
        zeroed.map(|pages| Self(pages.into())).map_err(|_| OutOfMemory::new("a page buffer", length_bytes))
    }

    /// The bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }

    /// The bytes, to be changed.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        self.0.as_mut_bytes()
    }
}

impl std::fmt::Debug for Buffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Buffer({} bytes)", self.bytes().len())
    }
}

/// Names one buffer of a [`Pool`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BufferId(u32);

/// The buffers that one machine and its driver share.
///
/// A machine takes and releases buffers and fills or reads them in `handle` and `poll`. While a
/// disk operation on a buffer is under way the driver has it on loan: touching a lent buffer is a
/// bug and panics, so that an operation in flight can never see bytes change under it.
#[derive(Debug, Default)]
pub struct Pool {
    slots: Vec<Slot>,
    free: Vec<BufferId>,
    taken_bytes: usize,
}

#[derive(Debug)]
enum Slot {
    /// Idle, and without memory.
    Gone,
    Idle(Buffer),
    Taken(Buffer),
    Lent,
}

impl Pool {
    /// Takes a buffer of `length_bytes` (rounded up to the alignment); its content is unspecified,
    /// but it is memory that held nothing else than this machine's data.
    ///
    /// # Errors
    ///
    /// The system gives no more memory.
    ///
    /// # Panics
    ///
    /// When more than 2^32 buffers exist.
    pub fn take(&mut self, length_bytes: usize) -> Result<BufferId, OutOfMemory> {
        let length_bytes = length_bytes.next_multiple_of(BUFFER_ALIGNMENT_BYTES);
        let fits = |id: &BufferId| {
            let slot = &self.slots[id.0 as usize];
            matches!(slot, Slot::Idle(b) if b.bytes().len() == length_bytes)
        };
        let id = if let Some(at) = self.free.iter().rposition(fits) {
            self.free.swap_remove(at)
        } else if let Some(&id) = self.free.last() {
            // Every idle buffer has another size: replace one, so that the pool never holds more
            // than was in use.
            self.slots[id.0 as usize] = Slot::Gone;
            self.slots[id.0 as usize] = Slot::Idle(Buffer::zeroed(length_bytes)?);
            self.free.pop();
            id
        } else {
            self.slots.push(Slot::Idle(Buffer::zeroed(length_bytes)?));
            BufferId(u32::try_from(self.slots.len() - 1).expect("fewer than 2^32 buffers"))
        };
        let slot = &mut self.slots[id.0 as usize];
        let Slot::Idle(buffer) = std::mem::replace(slot, Slot::Lent) else {
            unreachable!("an idle buffer was chosen")
        };
        *slot = Slot::Taken(buffer);
        self.taken_bytes += length_bytes;
        Ok(id)
    }

    /// Gives the memory of all idle buffers back to the system.
    pub fn shrink(&mut self) {
        for id in &self.free {
            self.slots[id.0 as usize] = Slot::Gone;
        }
    }

    /// Gives a buffer back.
    ///
    /// # Panics
    ///
    /// If it is not taken, or on loan.
    pub fn release(&mut self, id: BufferId) {
        let slot = &mut self.slots[id.0 as usize];
        let Slot::Taken(buffer) = std::mem::replace(slot, Slot::Lent) else {
            panic!("{id:?} released while not held")
        };
        self.taken_bytes -= buffer.bytes().len();
        *slot = Slot::Idle(buffer);
        self.free.push(id);
    }

    /// Bytes in buffers that are taken now.
    #[must_use]
    pub fn taken_bytes(&self) -> usize {
        self.taken_bytes
    }

    /// The bytes of a taken buffer.
    ///
    /// # Panics
    ///
    /// If it is not taken, or on loan.
    #[must_use]
    pub fn bytes(&self, id: BufferId) -> &[u8] {
        match &self.slots[id.0 as usize] {
            Slot::Taken(buffer) => buffer.bytes(),
            other => panic!("{id:?} read while {other:?}"),
        }
    }

    /// The bytes of a taken buffer, to be changed.
    ///
    /// # Panics
    ///
    /// If it is not taken, or on loan.
    pub fn bytes_mut(&mut self, id: BufferId) -> &mut [u8] {
        match &mut self.slots[id.0 as usize] {
            Slot::Taken(buffer) => buffer.bytes_mut(),
            other => panic!("{id:?} written while {other:?}"),
        }
    }

    /// Two different taken buffers at once, the second to be changed: for copying without a detour.
    ///
    /// # Panics
    ///
    /// If they are the same, or one is not taken or on loan.
    pub fn pair(&mut self, from: BufferId, to: BufferId) -> (&[u8], &mut [u8]) {
        match self.slots.get_disjoint_mut([from.0 as usize, to.0 as usize]) {
            Ok([Slot::Taken(from), Slot::Taken(to)]) => (from.bytes(), to.bytes_mut()),
            other => panic!("copy from {from:?} to {to:?} while {other:?}"),
        }
    }

    /// For drivers: takes the buffer itself for a disk operation. Its memory does not move until it
    /// is given back.
    ///
    /// # Panics
    ///
    /// If it is not taken, or on loan already.
    pub fn lend(&mut self, id: BufferId) -> Buffer {
        match std::mem::replace(&mut self.slots[id.0 as usize], Slot::Lent) {
            Slot::Taken(buffer) => buffer,
            other => panic!("{id:?} lent while {other:?}"),
        }
    }

    /// For drivers: gives a lent buffer back to the machine that holds its name.
    ///
    /// # Panics
    ///
    /// If the buffer was not lent.
    pub fn give_back(&mut self, id: BufferId, buffer: Buffer) {
        let slot = &mut self.slots[id.0 as usize];
        assert!(matches!(slot, Slot::Lent), "{id:?} given back but not lent");
        *slot = Slot::Taken(buffer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_aligned_and_reused() {
        let mut pool = Pool::default();
        let first = pool.take(5000).unwrap();
        assert_eq!(pool.bytes(first).len(), 8192);
        assert_eq!(pool.bytes(first).as_ptr().align_offset(BUFFER_ALIGNMENT_BYTES), 0);
        pool.bytes_mut(first)[0] = 7;
        pool.release(first);
        assert_eq!(pool.take(8192), Ok(first));
        assert_eq!(pool.taken_bytes(), 8192);
        pool.release(first);
        pool.shrink();
        assert_eq!(pool.take(8192), Ok(first));
        assert_eq!(pool.bytes(first)[0], 0, "it is another one");
    }

    #[test]
    fn memory_that_cannot_be_had_is_an_error_and_leaves_the_pool_as_it_was() {
        let mut pool = Pool::default();
        let far_too_much = usize::MAX / 2 / BUFFER_ALIGNMENT_BYTES * BUFFER_ALIGNMENT_BYTES;
        let error = OutOfMemory::new("a page buffer", far_too_much);
        assert_eq!(pool.take(far_too_much), Err(error));
        let first = pool.take(4096).unwrap();
        pool.release(first);
        assert_eq!(pool.take(far_too_much), Err(error));
        assert_eq!((pool.taken_bytes(), pool.take(4096)), (0, Ok(first)));
    }

    #[test]
    #[should_panic(expected = "read while Lent")]
    fn a_lent_buffer_cannot_be_read() {
        let mut pool = Pool::default();
        let id = pool.take(4096).unwrap();
        let _on_loan = pool.lend(id);
        let _ = pool.bytes(id);
    }
}

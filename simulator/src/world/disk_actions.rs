//! The disk of a world: what each action does there, and what a fault makes of it.

use super::{Fault, Pending, World};
use crate::disk::SimFile;
use snapshot_engine::machine::Piece;
use snapshot_engine::{Action, Completed, IoError, Pool};

impl World {
    fn file(&mut self) -> &mut SimFile {
        self.temporary.as_mut().or(self.image.as_mut()).expect("an operation on a file that is not there")
    }

    /// Carries out a disk action at once; its completion comes later.
    pub(super) fn disk_action(&mut self, action: Action, pool: &mut Pool) -> Pending {
        let at = self.actions - 1;
        let dead = matches!(self.fault, Fault::Dead(from) if from <= at);
        let failing = dead || self.fault == Fault::Error(at);
        let torn = self.fault == Fault::Torn(at);
        let full = matches!(self.fault, Fault::Full(from) if from <= at);
        if full && self.full_at.is_none() {
            self.full_at = Some(self.temporary.as_ref().or(self.image.as_ref()).map_or(0, SimFile::length));
        }
        let eio = || Err(IoError::from_raw_os_error(5));
        let enospc = || Err(IoError::from_raw_os_error(28));
        let plain = Ok(Completed::Plain);
        let pending = |id, buffer, result| Pending { id, buffer, result };
        match action {
            Action::Read { id, buffer, pieces } => {
                check_pieces(&pieces);
                let mut lent = pool.lend(buffer);
                for piece in &pieces {
                    self.file().read(piece.at.0, &mut lent.bytes_mut()[piece.range.clone()]);
                }
                pending(id, Some((buffer, lent)), if failing || torn { eio() } else { plain })
            }
            Action::Write { id, buffer, pieces } => {
                check_pieces(&pieces);
                let lent = pool.lend(buffer);
                let limit = self.full_at;
                let mut result = if failing || torn { eio() } else { plain };
                let done = if failing {
                    0
                } else if torn {
                    pieces.len() / 2
                } else {
                    pieces.len()
                };
                for piece in &pieces[..done] {
                    let bytes = &lent.bytes()[piece.range.clone()];
                    let length = bytes.len() as u64;
                    let fits = match limit {
                        None => true,
                        Some(_) if self.copy_on_write => length <= self.given_back,
                        Some(limit) => piece.at.0 + length <= limit,
                    };
                    if !fits {
                        result = enospc();
                        break;
                    }
                    self.given_back = self.given_back.saturating_sub(length);
                    self.file().write(piece.at.0, bytes);
                }
                pending(id, Some((buffer, lent)), result)
            }
            Action::SetLength { id, length_bytes } => {
                if failing || torn {
                    return pending(id, None, eio());
                }
                // A file becomes longer on a full disk, too: it is its content that needs space.
                self.file().set_length(length_bytes);
                pending(id, None, plain)
            }
            Action::Flush { id } => {
                if failing || torn {
                    return pending(id, None, eio());
                }
                self.file().flush();
                pending(id, None, plain)
            }
            Action::NextData { id, from } => {
                let data = self.file().next_data(from.0);
                pending(id, None, if failing { eio() } else { Ok(Completed::Data(data)) })
            }
            Action::CreateTemporary { id } => {
                if failing {
                    return pending(id, None, eio());
                }
                self.temporary = Some(SimFile::default());
                pending(id, None, plain)
            }
            Action::Ballast { id, bytes } => {
                if failing || torn {
                    return pending(id, None, eio());
                }
                if self.full_at.is_some() {
                    if bytes > self.ballast {
                        return pending(id, None, enospc());
                    }
                    self.given_back += self.ballast - bytes;
                }
                self.ballast = bytes;
                self.given_back_at = (bytes == 0).then_some(at);
                pending(id, None, plain)
            }
            Action::ProbeReplace { id } => {
                self.claimed_at = Some(at);
                pending(id, None, if failing || torn { eio() } else { plain })
            }
            // Torn: the name is there, the directory could not be synced, and the name could not be
            // taken away.
            Action::Link { id } | Action::Replace { id } => {
                if failing {
                    return pending(id, None, eio());
                }
                self.claimed_at.get_or_insert(at);
                self.image = self.temporary.take();
                pending(id, None, if torn { eio() } else { plain })
            }
            Action::Unlink { id } => {
                if failing || torn {
                    return pending(id, None, eio());
                }
                // What is written from now on goes to a file without a name.
                self.temporary = self.image.take();
                pending(id, None, plain)
            }
            other => panic!("not a disk action: {other:?}"),
        }
    }
}

fn check_pieces(pieces: &[Piece]) {
    for piece in pieces {
        let aligned =
            [piece.at.0, piece.range.start as u64, piece.range.end as u64].iter().all(|n| n % 4096 == 0);
        assert!(aligned && !piece.range.is_empty(), "a piece that O_DIRECT would refuse: {piece:?}");
    }
}

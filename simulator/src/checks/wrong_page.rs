use super::{Invariant, Violation};

/// The content that came (`None` is zero) is the one that was saved.
pub(crate) fn no_wrong_page(saved: Option<&[u8]>, came: Option<&[u8]>, place: &str) -> Result<(), Violation> {
    // A page with content may be zero.
    let came = came.filter(|bytes| bytes.iter().any(|&byte| byte != 0));
    if saved == came {
        Ok(())
    } else {
        Err(Violation::new(Invariant::WrongPage, format!("{place}: wrong content")))
    }
}

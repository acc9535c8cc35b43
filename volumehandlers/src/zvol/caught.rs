//! A panic in a library becomes an error: a bug in it must not end the node.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::zfs::ZfsError;

/// Does `call`; its panic is [`ZfsError::Panicked`]. What it was doing may have happened or not.
pub fn caught<T>(what: &str, call: impl FnOnce() -> Result<T, ZfsError>) -> Result<T, ZfsError> {
    // Nothing of ours is changed by `call` before its end, so nothing of ours can be half-changed.
    catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|panic| {
        let said = words_of(&*panic);
        tracing::error!(what, said, "a library panicked");
        Err(ZfsError::Panicked { what: what.to_owned(), said })
    })
}

fn words_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no words").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_an_error_with_its_words() {
        let panicked = caught("listing", || -> Result<(), ZfsError> { panic!("at {}", 7) });
        let (what, said) = ("listing".to_owned(), "at 7".to_owned());
        assert_eq!(panicked, Err(ZfsError::Panicked { what, said }));
        assert_eq!(caught("listing", || Ok(5)), Ok(5));
    }
}

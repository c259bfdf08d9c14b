//! Pictures of many sizes laid out for one launch of the resize kernel.

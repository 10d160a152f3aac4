//! Two hubs on one Redis: what is published on either reaches the subscribers of both.

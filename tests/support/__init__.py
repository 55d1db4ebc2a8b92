"""What the tests stand on: a misbehaving origin, small real media, a fake tool and checks for leftovers."""

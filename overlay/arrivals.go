package overlay

import "golang.org/x/sys/unix"

// arrivals tells whether something has come into some folders: inotify(7). Who
// holds a lock knows thereby of all that others did while they held it.
type arrivals struct {
	fd      int
	unknown bool // whether there is no telling
}

// newArrivals watches no folder yet. Where nothing can be watched, since the user
// does so too often already, something is always said to have come.
func newArrivals() *arrivals {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	return &arrivals{fd, err != nil}
}

// watch begins to watch folders, those of them that are there. To watch one again
// changes nothing.
func (a *arrivals) watch(folders ...string) {
	for _, folder := range folders {
		_, err := unix.InotifyAddWatch(a.fd, folder, unix.IN_CREATE|unix.IN_MOVED_TO|unix.IN_ONLYDIR)
		a.unknown = a.unknown || err != nil && err != unix.ENOENT
	}
}

// any tells whether something has come since the folders are watched, or since
// it was asked last. Nil has never been asked.
func (a *arrivals) any() bool {
	if a == nil || a.unknown {
		return true
	}
	came := false
	for buf := make([]byte, 4096); ; came = true {
		switch n, err := unix.Read(a.fd, buf); {
		case err == unix.EAGAIN:
			return came
		case err == unix.EINTR:
		case err != nil || n <= 0:
			a.unknown = true
			return true
		}
	}
}

func (a *arrivals) close() error {
	if a == nil || a.fd < 0 {
		return nil
	}
	return unix.Close(a.fd)
}

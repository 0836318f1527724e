package operator

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"
)

// usage is what a process has taken of the machine.
type usage struct {
	residentBytes int64
	cpuSeconds    float64
}

// ticks a second of /proc/<pid>/stat: USER_HZ is 100 on every architecture
// that Go runs on.
const ticks = 100

// usageOf reads /proc, and asks ps where there is none.
func usageOf(pid int) (usage, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err == nil {
		return parseStat(string(stat), int64(os.Getpagesize()))
	}
	if _, linux := os.Stat("/proc/self/stat"); linux == nil {
		return usage{}, err // it has ended
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, "ps", "-o", "rss=,time=", "-p", strconv.Itoa(pid)).Output()
	if err != nil {
		return usage{}, fmt.Errorf("ps: %w", err)
	}
	return parsePS(string(out))
}

// parseStat reads proc(5). The second field is the program's name in
// parentheses and may hold anything, so counting starts after the last one.
func parseStat(s string, page int64) (usage, error) {
	f := strings.Fields(s[strings.LastIndexByte(s, ')')+1:])
	if len(f) < 22 {
		return usage{}, fmt.Errorf("stat has %d fields", len(f))
	}
	user, err1 := strconv.ParseInt(f[11], 10, 64)
	system, err2 := strconv.ParseInt(f[12], 10, 64)
	resident, err3 := strconv.ParseInt(f[21], 10, 64)
	if err1 != nil || err2 != nil || err3 != nil {
		return usage{}, fmt.Errorf("stat has no numbers")
	}
	return usage{residentBytes: resident * page, cpuSeconds: float64(user+system) / ticks}, nil
}

// parsePS reads "12345 1:02:03.45": kibibytes, and hours, minutes, seconds.
func parsePS(s string) (usage, error) {
	f := strings.Fields(s)
	if len(f) != 2 {
		return usage{}, fmt.Errorf("ps answers %q", s)
	}
	rss, err := strconv.ParseInt(f[0], 10, 64)
	if err != nil {
		return usage{}, err
	}
	var seconds float64
	for part := range strings.SplitSeq(f[1], ":") {
		n, err := strconv.ParseFloat(part, 64)
		if err != nil {
			return usage{}, err
		}
		seconds = seconds*60 + n
	}
	return usage{residentBytes: rss << 10, cpuSeconds: seconds}, nil
}

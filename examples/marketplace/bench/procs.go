package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// ticks per second of /proc's CPU times: fixed on Linux.
const ticks = 100

// stat is what /proc tells of a process.
type stat struct {
	pid, parent int
	name        string
	// cpu of the process and of its children that have ended.
	cpu time.Duration
	rss int64
}

func readStat(path string) (stat, bool) {
	b, err := os.ReadFile(path)
	if err != nil {
		return stat{}, false // it has ended
	}
	text := string(b)
	open, end := strings.IndexByte(text, '('), strings.LastIndexByte(text, ')')
	if open < 0 || end < 0 {
		return stat{}, false
	}
	f := strings.Fields(text[end+1:])
	n := func(i int) int64 {
		v, _ := strconv.ParseInt(f[i], 10, 64) // the kernel's own format
		return v
	}
	pid, _ := strconv.Atoi(strings.TrimSpace(text[:open]))
	// Fields 14 to 17 of proc(5), counted from the state.
	cpu := n(11) + n(12) + n(13) + n(14)
	return stat{
		pid: pid, parent: int(n(1)), name: text[open+1 : end], cpu: time.Duration(cpu) * time.Second / ticks, rss: n(21) * int64(os.Getpagesize()),
	}, true
}

// deployment is every process of a shop: the kernel, its plugins and
// PostgreSQL with all its sessions.
func deployment(kernel int, dir string) (map[int]stat, error) {
	b, err := os.ReadFile(filepath.Join(dir, "data", "postgres", "data", "postmaster.pid"))
	if err != nil {
		return nil, err
	}
	first, _, _ := strings.Cut(string(b), "\n")
	postmaster, err := strconv.Atoi(strings.TrimSpace(first))
	if err != nil {
		return nil, err
	}
	paths, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return nil, err
	}
	all := make(map[int]stat, len(paths))
	for _, p := range paths {
		if s, ok := readStat(p); ok {
			all[s.pid] = s
		}
	}
	out := make(map[int]stat)
	for pid, s := range all {
		for at, ok := s, true; ok; at, ok = all[at.parent] {
			if at.pid == kernel || at.pid == postmaster {
				out[pid] = s
				break
			}
		}
	}
	return out, nil
}

// shares is what each part of a deployment has used so far: the kernel and
// plugins by their pids, PostgreSQL as 0.
func shares(kernel int, dir string) (map[int]time.Duration, error) {
	all, err := deployment(kernel, dir)
	if err != nil {
		return nil, err
	}
	out := make(map[int]time.Duration)
	for pid, s := range all {
		if s.name == "postgres" || s.name == "sh" {
			pid = 0
		}
		out[pid] += s.cpu
	}
	return out, nil
}

// cpu is what a deployment has used so far. A session of PostgreSQL that ends
// meanwhile is counted with the postmaster, its parent.
func cpu(kernel int, dir string) (time.Duration, error) {
	parts, err := shares(kernel, dir)
	var sum time.Duration
	for _, d := range parts {
		sum += d
	}
	return sum, err
}

func own() time.Duration {
	s, _ := readStat("/proc/self/stat")
	return s.cpu
}

func load() string {
	b, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	return strings.Join(strings.Fields(string(b))[:3], " ")
}

func mib(b int64) string { return fmt.Sprintf("%.0f MiB", float64(b)/(1<<20)) }

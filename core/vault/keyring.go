package vault

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"github.com/tink-crypto/tink-go/v2/aead"
	"github.com/tink-crypto/tink-go/v2/aead/subtle"
	"github.com/tink-crypto/tink-go/v2/insecurecleartextkeyset"
	"github.com/tink-crypto/tink-go/v2/keyset"
	"github.com/tink-crypto/tink-go/v2/tink"
)

// proofText is the value kept under the master key to recognise it.
var proofText = []byte("entrepot.vault.master")

// subjectKeyBytes makes subject keys AES-256.
const subjectKeyBytes = 32

// keyring wraps subject keys under the master key and remembers some of the
// unwrapped ones.
type keyring struct {
	master tink.AEAD
	memory memory
}

// openKeyring reads the master keyset, or creates it: then created is true.
// The file is a Tink keyset in JSON, so a rotation adds a key beside the old
// ones and both open what they wrapped.
func openKeyring(file string) (k *keyring, created bool, err error) {
	raw, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		created = true
		raw, err = createMaster(file)
	}
	if err != nil {
		return nil, false, fmt.Errorf("vault: master key: %w", err)
	}
	info, err := os.Stat(file)
	if err != nil {
		return nil, false, fmt.Errorf("vault: master key: %w", err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, false, fmt.Errorf("vault: others than its owner may read the master key %s: chmod 600 it", file)
	}
	handle, err := insecurecleartextkeyset.Read(keyset.NewJSONReader(bytes.NewReader(raw)))
	if err != nil {
		return nil, false, fmt.Errorf("vault: %s holds no master key: restore it from the backup", file)
	}
	master, err := aead.New(handle)
	if err != nil {
		return nil, false, fmt.Errorf("vault: %s holds no AEAD key: restore it from the backup", file)
	}
	return &keyring{master: master}, created, nil
}

// createMaster writes a new AES-256-GCM keyset. The file appears whole or not
// at all, and never in place of another.
func createMaster(file string) ([]byte, error) {
	handle, err := keyset.NewHandle(aead.AES256GCMKeyTemplate())
	if err != nil {
		return nil, err
	}
	var raw bytes.Buffer
	if err := insecurecleartextkeyset.Write(handle, keyset.NewJSONWriter(&raw)); err != nil {
		return nil, err
	}
	dir := filepath.Dir(file)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	tmp, err := os.CreateTemp(dir, ".vault-*") // mode 0600
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.Remove(tmp.Name()) }()
	_, err = tmp.Write(raw.Bytes())
	if err := errors.Join(err, tmp.Sync(), tmp.Close()); err != nil {
		return nil, err
	}
	if err := os.Link(tmp.Name(), file); err != nil {
		return nil, err
	}
	return raw.Bytes(), nil
}

// generate makes a subject's key and wraps it.
func (k *keyring) generate(subject string) (tink.AEAD, []byte, error) {
	raw := make([]byte, subjectKeyBytes)
	_, _ = rand.Read(raw) // never fails
	wrapped, err := k.master.Encrypt(raw, wrapContext(subject))
	if err != nil {
		return nil, nil, err
	}
	key, err := subtle.NewAESGCM(raw)
	return key, wrapped, err
}

// unwrap opens a subject's key as the database has it now, and remembers it.
func (k *keyring) unwrap(subject string, wrapped []byte) (tink.AEAD, error) {
	if key, ok := k.memory.get(subject); ok {
		return key, nil
	}
	raw, err := k.master.Decrypt(wrapped, wrapContext(subject))
	if err != nil {
		return nil, fmt.Errorf("key of %s: %w", subject, err)
	}
	key, err := subtle.NewAESGCM(raw)
	if err != nil {
		return nil, fmt.Errorf("key of %s: %w", subject, err)
	}
	k.memory.put(subject, key)
	return key, nil
}

func wrapContext(subject string) []byte { return []byte("entrepot.vault.subject|" + subject) }

// recordContext binds a ciphertext to its place: moved to another ref,
// subject or kind it does not open. No part can hold the separator.
func recordContext(ref, subject, kind string) []byte {
	return []byte(ref + "|" + subject + "|" + kind)
}

// memoryKeys bounds each of the two generations of remembered keys.
const memoryKeys = 2048

// memory is a bounded map of unwrapped keys that forgets by generations: what
// was not used for a whole generation is gone.
type memory struct {
	mu       sync.Mutex
	now, old map[string]tink.AEAD
}

func (m *memory) get(subject string) (tink.AEAD, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if key, ok := m.now[subject]; ok {
		return key, true
	}
	key, ok := m.old[subject]
	if ok {
		m.keep(subject, key)
	}
	return key, ok
}

func (m *memory) put(subject string, key tink.AEAD) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.keep(subject, key)
}

func (m *memory) keep(subject string, key tink.AEAD) {
	if m.now == nil || len(m.now) >= memoryKeys {
		m.now, m.old = make(map[string]tink.AEAD), m.now
	}
	m.now[subject] = key
}

func (m *memory) forget(subject string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.now, subject)
	delete(m.old, subject)
}

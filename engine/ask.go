package engine

import (
	"encoding/json"
	"os"
	"sync"

	"github.com/opencontainers/go-digest"

	"github.com/layerbuild/layerbuild/namespace"
)

// An inquiry asks registries what references stand for, each once in a build: however
// many layers start from one, and though a build that mounts has two lives.
type inquiry struct {
	mu      sync.Mutex
	asked   map[string]func() (digest.Digest, error) // by question
	answers map[string]digest.Digest
}

// answersName is the environment variable in which one life tells the next the answers.
const answersName = "LAYERBUILD_ANSWERS"

// newInquiry takes over what the life before was told.
func newInquiry() *inquiry {
	q := &inquiry{asked: map[string]func() (digest.Digest, error){}, answers: map[string]digest.Digest{}}
	if namespace.Entered() && json.Unmarshal([]byte(os.Getenv(answersName)), &q.answers) != nil {
		clear(q.answers)
	}
	_ = os.Unsetenv(answersName) // fails only for a name that is none
	for question, answer := range q.answers {
		q.asked[question] = func() (digest.Digest, error) { return answer, nil }
	}
	return q
}

// ask returns the answer to a question: find's, once.
func (q *inquiry) ask(question string, find func() (digest.Digest, error)) (digest.Digest, error) {
	q.mu.Lock()
	one, ok := q.asked[question]
	if !ok {
		one = sync.OnceValues(find)
		q.asked[question] = one
	}
	q.mu.Unlock()
	answer, err := one()
	if err == nil {
		q.mu.Lock()
		defer q.mu.Unlock()
		q.answers[question] = answer
	}
	return answer, err
}

// handOver keeps the answers for the next life. What a system cannot pass on is asked
// again.
func (q *inquiry) handOver() {
	const most = 100_000 // execve(2) has 128 KiB for each variable
	q.mu.Lock()
	defer q.mu.Unlock()
	if text, err := json.Marshal(q.answers); err == nil && len(q.answers) > 0 && len(text) < most {
		_ = os.Setenv(answersName, string(text))
	}
}

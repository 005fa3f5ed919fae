import pickle,numpy as np,glob,sys
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from scipy import stats
from pathlib import Path
D=[]
for f in sorted(glob.glob("/work/tmp/tr/f4/*.pkl")):
    d=pickle.load(open(f,"rb")); n=d["name"]
    d["fam"]="noise" if "noise" in n else "lay" if n.startswith("lay") else n.split("-")[0][:6]; d["clean"]="-none-" in n
    D.append(d)
R=[(s,r) for s in D for r in s["rows"]]
y=np.array([r["cp"]>0 and r["pois"]/r["n"]>.5 for s,r in R]); neg=np.array([r["cp"]==0 and r["kind"]!="rest" for s,r in R]); k=y|neg
f=np.array([s["fam"] for s,r in R]); w=np.zeros(len(R))
for n in set(f):
    for c in (0,1):
        m=(f==n)&k&(y==c)
        if m.sum(): w[m]=1/m.sum()
w*=k.sum()/w[k].sum()
def q(r,lam):
    t=r["taken"][r["oth"]].astype(float); t=t/t.sum() if t.sum()>0 else np.full(len(t),1/len(t))
    return lam*t+(1-lam)/len(t)
def rms(lam,mix=.5): return np.array([np.sqrt((q(r,lam)*(mix*r["p"]+(1-mix)*r["m"])**2).sum()) for s,r in R])
def mean(lam): return np.array([(q(r,lam)*(r["p"]+r["m"])/2).sum() for s,r in R])
small=np.log([min(r["n"],r["size"]-r["n"]) for s,r in R])
def natural(r): return 1-r["k"]*(1-min(1,r["k"]*r["deep"]/1.3))
B=np.array([np.clip(r["beyond"]*natural(r) if r["beyond"]>0 else r["beyond"],-4,4) for s,r in R]); Dp=np.array([min(r["k"]*r["deep"],6) for s,r in R])
Ag=np.array([r["agree"] for s,r in R]); kk=np.array([r["k"] for s,r in R])
lg=lambda t,e=.02:np.log(t+e)
def run(name,X,show=False):
    lr=LogisticRegression(C=10,max_iter=5000).fit(X[k],y[k],sample_weight=w[k]); e=lr.decision_function(X); res={}
    for (s,r),v in zip(R,e): res.setdefault(s["name"],{}).setdefault(r["label"],[]).append(v)
    mx={s["name"]:max(max(v) for v in res[s["name"]].values()) for s in D}
    eq=[s for s in D if s["clean"] and s["fam"] not in("lay","noise")]
    v=np.array([mx[s["name"]] for s in eq]); loc,sc=stats.gumbel_r.fit(v); thr=loc+2.97*sc
    adj=lambda s:mx[s["name"]]-sc*np.log(len(res[s["name"]])/10)
    att=[s for s in D if not s["clean"]]
    # groups of poisons above BH-like threshold: share of poisoned classes whose best poison group is above thr
    cls=[]; 
    for s in att:
        by={}
        for r_,v_ in [(r,v) for (s2,r),v in zip(R,e) if s2 is s]:
            if r_["cp"]>=5: by.setdefault(r_["label"],[]).append(v_)
        cls+=[max(x)>thr-1.3*np.log(10)*.5 for x in by.values()]
    auc=roc_auc_score([0]*len(eq)+[1]*len(att),[adj(s) for s in eq]+[adj(s) for s in att])
    print(f"{name:30s}",np.round(lr.coef_[0],2),round(lr.intercept_[0],2),f"loc {loc:.2f} sc {sc:.2f} thr {thr:.2f} lay",sum(adj(s)>thr for s in D if s["clean"] and s["fam"]=="lay"),"noise",sum(adj(s)>thr for s in D if s["fam"]=="noise"),"found",sum(adj(s)>thr for s in att),"of",len(att),{n:(sum(adj(s)>thr for s in att if s["fam"]==n),sum(s["fam"]==n for s in att)) for n in sorted(set(f))},f"auc {auc:.3f} group {roc_auc_score(y[k],e[k],sample_weight=w[k]):.4f} classes {np.sum(cls)}/{len(cls)}")
    if show:
        for s in att: print("    ",s["name"][:55],round(adj(s)-thr,2))
    return e,lr
if __name__=="__main__":
    for lam in (0,.25,.5,.75,1):
        run(f"rms lam {lam}",np.c_[B,Dp,lg(rms(lam)),small])
    for lam in (0,.5):
        run(f"rms lam {lam}+agree",np.c_[B,Dp,lg(rms(lam)),small,Ag*kk])
        run(f"rms lam {lam}+agree2",np.c_[B,Dp,lg(rms(lam)),small,Ag])
        run(f"rms lam {lam} agree*deep",np.c_[B,Dp,lg(rms(lam)),small,Ag*Dp])
        run(f"rms lam {lam} p only",np.c_[B,Dp,lg(rms(lam,1)),small])
        run(f"rms lam {lam} .7",np.c_[B,Dp,lg(rms(lam,.7)),small])
    run("mean .5",np.c_[B,Dp,lg(mean(.5)),small]); run("mean 1",np.c_[B,Dp,lg(mean(1)),small])
